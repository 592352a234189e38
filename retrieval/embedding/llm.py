"""Embeddings of a causal language model."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import DimensionMismatch
from .adapter import TASKS, Adapted, Reading, Task, adapted
from .embedder import Kind, Vectors, checked_kind, unit
from .identity import fingerprint_of, model_name, sampled_bytes, weights_digest

if TYPE_CHECKING:
    import torch


class LLMEmbedder:
    """Vectors out of a causal language model that is already loaded, untouched, and may be chatting elsewhere.

    With an adapter, its layers are read as the adapter was trained to: this is what finds passages. Without one, the
    final hidden states are pooled, the centre is taken off, and the rest is scaled to unit length: all texts lie in one
    narrow cone and the cosine says little (Ethayarajh 2019), so fit a centre, or let ``LocalKnowledge`` do it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        adapter: str | Path | None = None,
        *,
        task: Task = "knowledge",
        pooling: Literal["mean", "last"] = "mean",
        center: Vectors | None = None,
        max_tokens: int = 512,
        batch_tokens: int = 4096,
    ) -> None:
        """Share a loaded model.

        Args:
            model: A transformers causal language model, on any device, in any dtype; a PEFT model too.
            tokenizer: Its tokenizer; its settings are left as they are.
            adapter: Folder of an embedding adapter (`vivavoce train embedder` makes them). The layers it changes are
                copied, the model itself stays as it is.
            task: What is looked for: passages of a knowledge base, what was said earlier, a tool by its description, or
                examples like a sentence. An adapter may have an instruction for each.
            pooling: ``"mean"`` over all tokens, or the ``"last"`` token, which alone has seen the whole text. An
                adapter is trained with the mean.
            center: float32, shape (dim,): what to take off every pooled vector. An adapter needs none.
            max_tokens: Longer texts are cut to this; an adapter may read less.
            batch_tokens: How many tokens, padding included, go through the model at once.

        Raises:
            DimensionMismatch: If the centre is not as long as the vectors.
            EmbeddingError: If there is no adapter in the folder, it is damaged, or it fits another model.
        """
        if pooling not in ("mean", "last"):
            raise ValueError(f"pooling must be 'mean' or 'last', got {pooling!r}.")
        if adapter is not None and pooling != "mean":
            raise ValueError("an adapter is trained with the mean: leave pooling out.")
        if max_tokens < 1 or batch_tokens < 1:
            raise ValueError("max_tokens and batch_tokens must be at least 1; 512 and 4096 suit most models.")
        self.name = model_name(getattr(model.config, "name_or_path", "")) or type(model).__name__
        self.dim = int(model.config.hidden_size)
        self._adapted: Adapted | None = None
        if adapter is None:
            # The decoder below the language model head: no logits over the vocabulary are computed.
            self._decoder = model.get_decoder()
            self.fingerprint = fingerprint_of("llm", weights_digest(model), pooling, max_tokens)
        else:
            self._adapted = adapted(model, adapter)
            self._decoder, config = self._adapted.decoder, self._adapted.config
            self.name, self.dim = f"{self.name}+{Path(adapter).name}", config.length
            max_tokens = min(max_tokens, config.max_tokens)
            lexical = self._adapted.lexical
            values = [self._adapted.projection, *((lexical.whitening, lexical.log_weights) if lexical else ())]
            read = (
                sorted(asdict(config).items(), key=str),
                max_tokens,
                [sampled_bytes(value).hex() for value in values],
            )
            self._base = fingerprint_of("adapted llm", weights_digest(self._decoder), read)
            center = np.zeros(self.dim, np.float32) if center is None else center
        self.center = self._checked_center(center)
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._max_tokens = max_tokens
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()  # fast tokenizers are not thread-safe ("Already borrowed")
        self._task: Task = "knowledge"
        self._take(task)

    def for_task(self, task: Task) -> LLMEmbedder:
        """The same embedder (the model is shared) for another task; vectors of two tasks are not to be compared.

        Raises:
            ValueError: If there is no such task.
        """
        other = copy.copy(self)
        other._take(task)
        return other

    def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Embed texts; see ``Embedder.embed``."""
        return self.finish(self.pooled(texts, kind=kind))

    def fit_center(self, texts: Sequence[str]) -> LLMEmbedder:
        """The same embedder with the mean of these passages as centre.

        Args:
            texts: Passages of the corpus, at least one; a few hundred are enough.

        Raises:
            ValueError: If there is none.
        """
        if not texts:
            raise ValueError("A centre needs at least one text to be fitted to.")
        return self.with_center(self.pooled(texts).mean(axis=0))

    def with_center(self, center: Vectors) -> LLMEmbedder:
        """The same embedder (the model is shared) with another centre."""
        other = copy.copy(self)
        other.center = self._checked_center(center)
        return other

    def finish(self, pooled: Vectors) -> Vectors:
        """Centre pooled vectors and scale them to unit length: float32, shape (n, dim) to the same."""
        return unit(pooled if self.center is None else pooled - self.center)

    def pooled(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Pooled final hidden states, neither centred nor scaled: float32, shape (len(texts), dim)."""
        checked_kind(kind)
        vectors = np.empty((len(texts), self.dim), np.float32)
        if not texts:
            return vectors
        head: list[int] = []
        with self._lock:
            if self._adapted is None:
                encoded = self._tokenizer(list(texts), add_special_tokens=True, verbose=False)
                blank = self._tokenizer.eos_token_id or 0  # stands for a text without any token
                tokens = [ids[: self._max_tokens] or [blank] for ids in encoded["input_ids"]]
            else:
                config = self._adapted.config
                head, tokens = config.tokens(self._tokenizer, texts, kind, self._task, cut=self._max_tokens)
        for batch in like_lengths([len(head) + len(text) for text in tokens], self._batch_tokens):
            vectors[batch] = self._forward(head, [tokens[place] for place in batch])
        return vectors

    def _take(self, task: Task) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        self._task = task
        if self._adapted is not None:
            config = self._adapted.config
            self.fingerprint = fingerprint_of(
                self._base, config.share(task), config.tasks.get(task, Reading()).instruction
            )

    def _checked_center(self, center: Vectors | None) -> Vectors | None:
        if center is None:
            return None
        own = np.array(center, np.float32)
        if own.shape != (self.dim,):
            raise DimensionMismatch(f"The centre has shape {own.shape}, the model needs ({self.dim},).")
        return own

    def _forward(self, head: Sequence[int], tokens: Sequence[Sequence[int]]) -> Vectors:
        import torch

        with torch.inference_mode():
            both = self._adapted is not None and self._adapted.config.attention == "bidirectional"
            states, mask = hidden_states(self._decoder, [[*head, *text] for text in tokens], bidirectional=both)
            if self._pooling == "last":
                pooled = states[torch.arange(len(tokens)), mask.sum(dim=1) - 1]
            else:
                pooled = mean_pooled(states, mask, head=len(head))
            if self._adapted is not None:
                pooled = self._adapted.finish(pooled, tokens, self._task)
        return np.asarray(pooled.cpu().numpy(), np.float32)


def like_lengths(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of texts to read together: of like length, so that little is padding, and of so many tokens at most.

    Args:
        lengths: Of the texts, in tokens.
        tokens: How many a batch holds, padding included; a text that is longer has one of its own.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) + 1) * lengths[place] > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def hidden_states(
    decoder: Any, tokens: Sequence[Sequence[int]], *, bidirectional: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Final hidden states of some texts, float32, shape (n, longest, width), and which of them count: int64."""
    import torch

    device = next(decoder.parameters()).device
    width = max(map(len, tokens))
    ids = torch.zeros((len(tokens), width), dtype=torch.long)
    mask = torch.zeros((len(tokens), width), dtype=torch.long)
    for row, text in enumerate(tokens):  # padded on the right: a causal model then never sees the padding
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    seen = mask.to(device)
    if bidirectional:  # every token sees all that is no padding; a mask of four axes is taken as it is
        seen = seen[:, None, None, :].expand(-1, 1, width, -1).bool()
    output = decoder(ids.to(device), attention_mask=seen, use_cache=False)
    return output.last_hidden_state.float(), mask.to(device)


def mean_pooled(states: torch.Tensor, mask: torch.Tensor, *, head: int = 0) -> torch.Tensor:
    """Mean over the tokens that count, the first few left out: shape (n, longest, width) to (n, width)."""
    states, mask = states[:, head:], mask[:, head:]
    return (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
