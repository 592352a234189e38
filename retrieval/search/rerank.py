"""Reading the best passages again, each together with the question, to put them into a better order.

::

    knowledge = RerankedKnowledge(knowledge, CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2"))
    knowledge.search("when do you close on sundays")

Embeddings compare a question with what was made of a passage before anybody asked; a reranker reads both at once. It
costs time for each passage, so only the first few are read.
"""

from __future__ import annotations

import string
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..embedding.likelihood import first_tokens, question_log_likelihoods
from ..embedding.loading import Device, loading, torch_device
from ..errors import EmbeddingError
from ..passages import KnowledgeBase, Passage
from ..query.filters import Where
from ..query.query import Query, QueryKnowledge, as_query_knowledge

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase
"""What passages are called in one prompt: one token each."""


@runtime_checkable
class Reranker(Protocol):
    """Anything that puts passages into a better order."""

    def rerank(self, query: str, passages: Sequence[Passage], k: int = 5) -> tuple[Passage, ...]:
        """Order passages by how well they answer a question.

        Args:
            query: What was asked.
            passages: What was found, best first.
            k: How many passages at most, at least 1.

        Returns:
            The ``k`` best of them, best first, with a ``score`` of its own making.
        """
        ...


class RerankedKnowledge:
    """A knowledge base whose best passages are read again by a reranker.

    Whatever else a query holds decides which passages are read: every reading searches, and filters and what was said
    before count as in the knowledge base. The order is the reranker's, which sees the likeliest reading alone.
    """

    def __init__(self, knowledge: KnowledgeBase | QueryKnowledge, reranker: Reranker, *, depth: int = 10) -> None:
        """Join the two.

        Args:
            knowledge: Finds the passages.
            reranker: Puts them into order.
            depth: How many are read.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        self.knowledge = knowledge
        self.reranker = reranker
        self.depth = depth

    def search(
        self, query: str, k: int = 5, *, where: Where | None = None, instruction: str = ""
    ) -> tuple[Passage, ...]:
        """Find passages for a question; see ``LocalKnowledge.search``."""
        return self.search_query(Query.of(query, where=where, instruction=instruction), k)

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for a query, which is handed on whole, and read them with its likeliest reading."""
        passages = as_query_knowledge(self.knowledge).search_query(query, max(k, self.depth))
        return self.reranker.rerank(query.text, passages, k) if passages else ()


class CrossEncoderReranker:
    """A sequence classifier that reads question and passage together (Nogueira & Cho 2019, arXiv:1901.04085).

    ``score`` is what the model says: a probability for those with a sigmoid at their end. Calls from several threads
    are served one after the other.
    """

    def __init__(self, path_or_name: str | Path, *, device: Device = "auto", batch_size: int = 32) -> None:
        """Load the model.

        Args:
            path_or_name: A folder, or a name on the Hugging Face hub: any sentence-transformers cross-encoder with one
                output.
            device: Where it runs; ``"auto"`` takes a GPU if there is one.
            batch_size: How many passages go through the model at once.

        Raises:
            EmbeddingError: If the model cannot be loaded, or does not give one number.
            DeviceUnavailable: If ``"cuda"`` is asked for and not there.
        """
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise ImportError("Cross-encoders need sentence-transformers: pip install 'vivavoce[embedding]'") from error

        where = str(path_or_name)
        chosen = torch_device(device)
        with loading("cross-encoder", where):
            self._model = CrossEncoder(where, device=chosen)
        if self._model.num_labels != 1:
            raise EmbeddingError(f"{where!r} tells {self._model.num_labels} classes apart; a reranker gives one score.")
        self._batch_size = batch_size
        self._lock = threading.Lock()

    def rerank(self, query: str, passages: Sequence[Passage], k: int = 5) -> tuple[Passage, ...]:
        """Order passages; see ``Reranker.rerank``."""
        with self._lock:
            pairs = [(query, passage.in_context) for passage in passages]
            scores = self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False) if pairs else []
        return _ordered(passages, np.asarray(scores, np.float64), k)


class LikelihoodReranker:
    """How likely a language model finds the question, having read the passage (Sachan et al. 2022, UPR).

    It needs no training and no particular model (https://arxiv.org/abs/2204.07496), and a question that was misheard
    is likely where most of it still fits. ``score`` is the passage's own, from 0 to 1, and the posterior of the
    passage among those that were read, weighed together.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, weight: float = 0.2, max_tokens: int = 160, batch_tokens: int = 2048
    ) -> None:
        """Share a loaded model.

        Args:
            model: A transformers causal language model.
            tokenizer: Its tokenizer.
            weight: What the posterior counts against the passage's own score, in (0, 1].
            max_tokens: What is read of a passage.
            batch_tokens: How many tokens, padding included, go through the model at once.
        """
        if not 0 < weight <= 1 or max_tokens < 1 or batch_tokens < 1:
            raise ValueError("weight must lie above 0 and be at most 1, max_tokens and batch_tokens at least 1.")
        self._model, self._tokenizer = model, tokenizer
        self._weight, self._max_tokens, self._batch_tokens = weight, max_tokens, batch_tokens
        self._lock = threading.Lock()

    def rerank(self, query: str, passages: Sequence[Passage], k: int = 5) -> tuple[Passage, ...]:
        """Order passages; see ``Reranker.rerank``."""
        if not passages:
            return ()
        likelihoods = np.array(self.log_likelihoods(query, [passage.in_context for passage in passages]))
        posteriors = np.exp(likelihoods - likelihoods.max())
        before = np.array([passage.score for passage in passages])
        return _ordered(passages, (1 - self._weight) * before + self._weight * posteriors / posteriors.sum(), k)

    def log_likelihoods(self, query: str, texts: Sequence[str]) -> list[float]:
        """Mean log-probability of the question's tokens behind each text, in nats."""
        pairs = [(query, text) for text in texts]
        read = {"max_tokens": self._max_tokens, "batch_tokens": self._batch_tokens}
        with self._lock:
            return question_log_likelihoods(self._model, self._tokenizer, pairs, **read)


class ListwiseReranker:
    """Orders passages by one forward pass of a language model that sees all of them (FIRST; Reddy et al. 2024).

    Every passage of the prompt has a letter, and the logits of the letters as the first token of the answer are the
    order (https://arxiv.org/abs/2406.15657): nothing is generated. Passages that do not fit into one window are read in
    windows that slide from the last to the first; with one window over all it is full ranking (Liu et al. 2024,
    https://arxiv.org/abs/2412.14574), which reads each passage once.

    What it is worth is up to the model: one that was trained to rank, or has some billions of parameters. ``score`` is
    1 for the first passage, 1/2 for the second, and so on.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        window: int | None = 20,
        step: int = 10,
        max_tokens: int = 120,
    ) -> None:
        """Share a loaded model.

        Args:
            model: A transformers causal language model that chats.
            tokenizer: Its tokenizer.
            window: How many passages one prompt holds; None for all of them, 52 at most.
            step: By how many places a window is moved.
            max_tokens: What is read of a passage.
        """
        if window is not None and not 2 <= window <= len(IDENTIFIERS):
            raise ValueError(f"window must be 2 to {len(IDENTIFIERS)}, or None for one over all, got {window}.")
        if not 1 <= step < (window or len(IDENTIFIERS)) or max_tokens < 1:
            raise ValueError("step must be at least 1 and less than window, and max_tokens at least 1.")
        self._model, self._tokenizer = model, tokenizer
        self._window, self._step, self._max_tokens = window, step, max_tokens
        self._letters = [_last_token(tokenizer, f"[{letter}") for letter in IDENTIFIERS]
        self._lock = threading.Lock()

    def rerank(self, query: str, passages: Sequence[Passage], k: int = 5) -> tuple[Passage, ...]:
        """Order passages; see ``Reranker.rerank``. Of more than 52 in one window, the rest stay behind."""
        order = list(range(len(passages)))
        window = min(self._window or len(IDENTIFIERS), max(len(order), 1))
        start = max(0, min(len(order), len(IDENTIFIERS) if self._window is None else len(order)) - window)
        while len(order) > 1:
            part = order[start : start + window]
            logits = self._logits(query, [passages[place].in_context for place in part])
            order[start : start + window] = [part[place] for place in np.argsort(-logits, kind="stable")]
            if start == 0:
                break
            start = max(0, start - self._step)
        return tuple(
            replace(passages[place], score=1 / (1 + rank)) for rank, place in enumerate(order[: _at_least_one(k)])
        )

    def _logits(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """Logits of the letters, shape (len(texts),)."""
        import torch

        with self._lock:
            listed = "\n\n".join(
                f"[{letter}] {first_tokens(self._tokenizer, text, self._max_tokens)}"
                for letter, text in zip(IDENTIFIERS, texts, strict=False)
            )
            asked = (
                f"Here are {len(texts)} passages, each with a letter in brackets.\n\n{listed}\n\n"
                f"Rank them by how well they answer this question, the best one first: {query}\n"
                "Answer with their letters only, such as [B] > [A]."
            )
            messages = [{"role": "user", "content": asked}]
            prompt = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + "["
            ids = self._tokenizer(prompt, add_special_tokens=False).input_ids
        with torch.inference_mode():
            device = next(self._model.parameters()).device
            logits = self._model(torch.tensor([ids], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        return np.asarray(logits[self._letters[: len(texts)]].float().cpu().numpy(), np.float64)


def _ordered(passages: Sequence[Passage], scores: NDArray[np.float64], k: int) -> tuple[Passage, ...]:
    best = np.argsort(-scores, kind="stable")[: _at_least_one(k)]
    return tuple(replace(passages[place], score=float(scores[place])) for place in best.tolist())


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    return k


def _last_token(tokenizer: Any, text: str) -> int:
    return int(tokenizer(text, add_special_tokens=False).input_ids[-1])
