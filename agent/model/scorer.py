"""How probable a sentence is as language, which an N-best list is rescored with (``speech.LanguageChooser``).

scorer = LanguageScorer(model)
scorer.score(["It's hard to recognise speech.", "It's hard to wreck a nice beach."])
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivavoce.retrieval.embedding.identity import fingerprint_of, sampled_bytes, weights_digest
from vivavoce.retrieval.embedding.llm import like_lengths

from ..concurrency import on_model_thread
from ..errors import ConfigError, GenerationError
from .local import TransformersChatModel, cached_forward

OPENING = """\
The train left at noon.
He studied law in Boston and later became a judge.
What do you want to eat tonight?
She looked at him for a moment, and then she smiled.
The village lies on the river, south of the city.
"""
"""What people read aloud and say, one sentence a line. Behind it SmolLM2-135M ranks readings better than behind
nothing."""


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How sentences are put before the model.

    Attributes:
        opening: Lines that every sentence is read behind: they tell the model what kind of text it is.
        batch_tokens: How many tokens one forward pass reads at most, padding included.
    """

    opening: str = OPENING
    batch_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be positive, not {self.batch_tokens}", stage="config")


class LanguageScorer:
    """Log-probability of whole sentences under a causal language model, without a chat template."""

    def __init__(
        self,
        chat: TransformersChatModel,
        *,
        adapter: str | Path | None = None,
        options: ScoringOptions | None = None,
    ) -> None:
        """Score with a model that is loaded already; it may go on answering meanwhile.

        Args:
            chat: Its weights and tokenizer are used, its streams are not touched.
            adapter: Folder of a LoRA adapter (`vivavoce train corrector`) that is put on while sentences are scored.
            options: How sentences are put before it.

        Raises:
            ConfigError: If the folder holds no adapter, or one for another model.
        """
        self.options = options or ScoringOptions()
        self._chat = chat
        tokenizer = chat.tokenizer
        # Text in training follows the token that separates documents, which SmolLM2's tokenizer calls unknown.
        start = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.bos_token_id
        self._start = [tokenizer.eos_token_id if start is None else start]
        self._adapted = [] if adapter is None else _merged(chat.model, Path(adapter))
        self._cached: tuple[list[int], Any] | None = None  # the context that was read last, and its keys and values

    @property
    def fingerprint(self) -> str:
        """Equal for two scorers if and only if they give the same scores (weights, adapter and opening)."""
        merged = [sampled_bytes(weight).hex() for _, weight in self._adapted]
        return fingerprint_of("language scorer", weights_digest(self._chat.model), merged, self.options.opening)

    def score(self, texts: Sequence[str], *, context: str = "") -> tuple[float, ...]:
        """Sum of the log-probabilities of each text's tokens and of the line's end behind it, in nats.

        Args:
            texts: One line each; "" is a line that ends at once.
            context: What was said before.

        Raises:
            GenerationError: If a text is longer than the model can read.
        """
        if not texts:
            return ()
        return on_model_thread(lambda: self._score_adapted(texts, context))

    def lengths(self, texts: Sequence[str]) -> tuple[int, ...]:
        """How many tokens each text is read as, the line's end included."""
        return tuple(len(self._ids(" ".join(text.split()) + "\n")) for text in texts)

    def _score_adapted(self, texts: Sequence[str], context: str) -> tuple[float, ...]:
        """Score with the adapter's weights in the place of the model's, which are put back as they were."""
        bare = [weight.data for weight, _ in self._adapted]
        try:
            for weight, merged in self._adapted:
                weight.data = merged
            return self._score(texts, context)
        finally:
            for (weight, _), data in zip(self._adapted, bare, strict=True):
                weight.data = data

    def _score(self, texts: Sequence[str], context: str) -> tuple[float, ...]:
        before = self._start + self._ids(self.options.opening + (f"{context.strip()}\n" if context.strip() else ""))
        lines = [self._ids(" ".join(text.split()) + "\n") for text in texts]
        limit = int(self._chat.model.config.max_position_embeddings)
        longest = max(map(len, lines))
        if longest + len(self._start) > limit:
            raise GenerationError(
                f"A text has {longest} tokens, {self._chat.name} reads {limit}: score it sentence by sentence",
                stage="answer",
            )
        if len(before) + longest > limit:
            before = self._start + before[len(before) + longest + 1 - limit :]
        scores = [0.0] * len(lines)
        for batch in like_lengths([len(line) for line in lines], self.options.batch_tokens):
            for index, score in zip(batch, self._forward(before, [lines[i] for i in batch]), strict=True):
                scores[index] = score
        return tuple(scores)

    def _forward(self, before: list[int], lines: Sequence[list[int]]) -> list[float]:
        """Scores of some lines: those of one list begin alike, and this beginning is read only once."""
        import torch

        shared = min(_common(lines), min(map(len, lines)) - 1) if len(lines) > 1 else 0
        shared = 0 if shared == 1 else shared  # one token alone would be read with the weights of the decoder
        longest = max(map(len, lines))
        with torch.inference_mode():
            cache = self._context(before[:-1])
            head, logits = 0.0, None
            if shared:
                ids = torch.tensor([[before[-1], *lines[0][: shared - 1]]], device=self._chat.device)
                logits = cached_forward(self._chat.model, ids, cache).logits
                head = float(_picked(logits, torch.tensor([lines[0][:shared]], device=self._chat.device)).sum())
            first = lines[0][shared - 1] if shared else before[-1]
            rest = [line[shared:] for line in lines]
            width = longest - shared
            targets = torch.tensor([row + [0] * (width - len(row)) for row in rest], device=self._chat.device)
            inputs = torch.cat([torch.full_like(targets[:, :1], first), targets[:, :-1]], dim=1)
            cache.batch_repeat_interleave(len(lines))
            # Right padding needs no mask: a causal model's scores do not depend on what follows.
            logits = cached_forward(self._chat.model, inputs, cache).logits
            kept = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in rest])
            tails = (_picked(logits, targets).cpu() * kept).sum(-1)
        return [head + float(tail) for tail in tails]

    def _context(self, tokens: list[int]) -> Any:
        """Keys and values of what stands before a line, read once for as long as it stays the same."""
        import torch
        from transformers import DynamicCache

        if self._cached is None or self._cached[0] != tokens:
            cache = DynamicCache(config=self._chat.model.config)
            if tokens:
                cached_forward(
                    self._chat.model, torch.tensor([tokens], device=self._chat.device), cache, logits_to_keep=1
                )
            self._cached = (tokens, cache)
        return copy.deepcopy(self._cached[1])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._chat.tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _merged(model: Any, folder: Path) -> list[tuple[Any, Any]]:
    """The weights that an adapter changes, each with what it becomes: W + alpha / rank * B A (PEFT's format)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        scale = float(config["lora_alpha"]) / int(config["r"])
        changed = []
        for name in sorted(name for name in tensors if name.endswith("lora_A.weight")):
            down, up = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            weight = getattr(module, "full", module).weight  # `full`: where single tokens have a second copy
            delta = scale * (up.float() @ down.float()).to(weight.device)
            changed.append((weight, (weight.data.float() + delta).to(weight.dtype)))
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{folder} holds no adapter for this model ({error})", stage="config") from error
    return changed


def _picked(logits: Any, targets: Any) -> Any:
    """Log-probabilities of the target tokens; float32, shape (lines, tokens)."""
    return logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]


def _common(lines: Sequence[list[int]]) -> int:
    """How many leading tokens all lines share."""
    first, last = min(lines), max(lines)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
