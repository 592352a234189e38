"""What an intent classifier sees of a text: its embedding, or hidden states of the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval import Embedder
from vivavoce.retrieval.embedding.llm import like_lengths

from ..concurrency import on_model_thread
from ..errors import ConfigError
from ..model.chat import Device
from ..model.embedder import default_embedder
from ..model.local import TransformersChatModel
from ..weights import LLM, Progress, resolve

_STAGE = "intents"


@runtime_checkable
class TextReader(Protocol):
    """Turns texts into features; readers count alike, and so do the blocks of one reader, however long."""

    @property
    def name(self) -> str:
        """Says which model reads, and how: a trained head fits readers of the same names only."""
        ...

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """Blocks of features, each float32 of shape (len(texts), its width)."""
        ...


class EmbeddingReader:
    """An embedder as a reader of one block."""

    def __init__(self, embedder: Embedder) -> None:
        """Read with an embedder, for example the one that searches documents."""
        self._embedder = embedder
        self.name = embedder.name

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See ``TextReader.read``."""
        return (self._embedder.embed(texts, kind="passage"),)


@dataclass(frozen=True, slots=True)
class StateOptions:
    """How a language model reads a sentence, and which of its states are taken.

    The sentence stands in the prompt twice, because a causal model has seen the end of it only when it reads it again
    (echo embeddings, Springer et al. 2024, https://arxiv.org/abs/2402.15449). A request for one word follows, before
    which the last state sums the sentence up (PromptEOL, Jiang et al. 2023, https://arxiv.org/abs/2307.16645).

    Attributes:
        opening: What stands before the sentence.
        again: What stands between its two copies.
        question: What stands after the second.
        mean_layers: Layers whose states are averaged over the second copy, as shares of the depth.
        last_layers: Layers whose state of the last token is taken, as shares of the depth.
        batch_tokens: How many tokens one forward pass reads at most, padding included.
        max_tokens: Of one copy; what is longer is cut.
    """

    opening: str = 'A person says: "'
    again: str = '"\nThe person says again: "'
    question: str = '"\nIn one word, the person wants the assistant to:'
    mean_layers: tuple[float, ...] = (0.47, 0.8)
    last_layers: tuple[float, ...] = (0.8, 0.93)
    batch_tokens: int = 2048
    max_tokens: int = 128

    def __post_init__(self) -> None:
        shares = (*self.mean_layers, *self.last_layers)
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                f"layers are shares of the depth, 0 to 1, at least one of them: not {shares}", stage=_STAGE
            )
        if self.batch_tokens < 1 or self.max_tokens < 1:
            raise ConfigError("batch_tokens and max_tokens must be at least 1", stage=_STAGE)


class StateReader:
    """Inner states of a language model that is loaded already; it stays as it is, and may go on answering."""

    def __init__(self, chat: TransformersChatModel, *, options: StateOptions | None = None) -> None:
        """Read with the weights and the tokenizer of a chat model; its streams are not touched."""
        self.options = options or StateOptions()
        self.name = f"{chat.name} states"
        self._chat = chat
        depth = int(chat.model.config.num_hidden_layers)
        self._means = [round(share * depth) for share in self.options.mean_layers]
        self._lasts = [round(share * depth) for share in self.options.last_layers]

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """One block per layer that is averaged, then one per last state; see ``TextReader.read``."""
        width = int(self._chat.model.config.hidden_size)
        blocks = np.zeros((len(self._means) + len(self._lasts), len(texts), width), np.float32)
        opening, again, question = map(self._ids, (self.options.opening, self.options.again, self.options.question))
        sentences = [self._ids(text)[: self.options.max_tokens] or again[-1:] for text in texts]
        prompts = [[*opening, *sentence, *again, *sentence, *question] for sentence in sentences]
        for batch in like_lengths([len(prompt) for prompt in prompts], self.options.batch_tokens):
            rows = [prompts[row] for row in batch]
            starts = [len(opening) + len(again) + len(sentences[row]) for row in batch]
            spans = [(start, start + len(sentences[row])) for start, row in zip(starts, batch, strict=True)]
            blocks[:, batch] = on_model_thread(partial(self._forward, rows, spans))
        return tuple(blocks)

    def _forward(self, prompts: list[list[int]], spans: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Features of some prompts; shape (blocks, prompts, hidden size)."""
        import torch

        width = max(map(len, prompts))
        # Padding on the right needs no mask: a causal model's states do not depend on what follows.
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self._chat.device)
        with torch.inference_mode():
            states = self._chat.model.get_decoder()(ids, use_cache=False, output_hidden_states=True).hidden_states
            share = torch.zeros(ids.shape, device=self._chat.device)
            for row, (start, end) in enumerate(spans):
                share[row, start:end] = 1 / (end - start)
            ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._chat.device)
            means = [(states[layer].float() * share[:, :, None]).sum(dim=1) for layer in self._means]
            lasts = [states[layer].float()[torch.arange(len(prompts)), ends] for layer in self._lasts]
            return np.asarray(torch.stack([*means, *lasts]).cpu().numpy(), np.float32)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._chat.tokenizer(text, add_special_tokens=False).input_ids
        return ids


def open_readers(
    chat: TransformersChatModel | None = None,
    embedder: Embedder | None = None,
    *,
    device: Device = "auto",
    progress: Progress | None = None,
) -> tuple[TextReader, ...]:
    """The readers that an ``IntentClassifier`` takes by default: the language model's states, and sentence vectors.

    Args:
        chat: A model that is loaded already; None loads the assistant's own.
        embedder: The same.
        device: Where they run, if they are loaded here.
        progress: Told how a download goes.
    """
    if chat is None:
        chat = TransformersChatModel(resolve(LLM, progress=progress), device=device)
    return StateReader(chat), EmbeddingReader(embedder or default_embedder(device, progress))
