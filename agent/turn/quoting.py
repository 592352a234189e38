"""Answers in the documents' own words: the sentence that fits best, or "I don't know".

A language model of a few hundred million parameters cannot be trusted to put what it read into its own words, nor to
say that it did not find it. It can tell which of a few sentences is the likely answer, and an embedder can tell which
is about the question; the two err differently, and their sum is right more often than either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from vivavoce.retrieval import Embedder, Passage
from vivavoce.speech import Transcript, sentences

from ..model.chat import Generation
from ..model.prompts import DONT_KNOW, looked_up, user_turn
from .events import Said


@runtime_checkable
class ScoringGeneration(Generation, Protocol):
    """A generation that can say how likely given answers are; those of local models can."""

    def score(self, answers: Sequence[str]) -> tuple[float, ...]:
        """Mean log-probability per token of each text as the whole answer, nats."""
        ...


@dataclass(frozen=True, slots=True)
class QuoteOptions:
    """Options for choosing the sentence to quote.

    Attributes:
        candidates: How many of the sentences nearest in meaning the language model compares.
        likelihood_weight: Weight of the model's mean log-probability (nats per token) beside the cosine.
        threshold: Cosine of question and sentence under which nothing answers the question.
        tie: Candidates of the same passage that score this little less than the best are said with it.

    The defaults were chosen for MiniLM and SmolLM2-135M, on every second question of the coffee house's that has an
    answer and on those that have none; `python tests/benchmarks/run.py --only answers` measures what they give.
    """

    candidates: int = 3
    likelihood_weight: float = 0.07
    threshold: float = 0.5
    tie: float = 0.05

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, not {self.candidates}")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine, -1 to 1, not {self.threshold}")
        if self.tie < 0:
            raise ValueError(f"tie must be 0 or more, not {self.tie}")


def quote(
    generation: Generation,
    heard: Transcript,
    passages: Sequence[Passage],
    embedder: Embedder,
    options: QuoteOptions | None = None,
) -> Said:
    """Quote the sentence of the passages that answers the question, or say that none does.

    Args:
        generation: Begun with the question; reads the passages if it has to compare sentences.
        heard: The question.
        passages: Best first, at least one.
        embedder: Compares question and sentences.
        options: How the sentence is chosen.
    """
    options = options or QuoteOptions()
    quotable = [(passage, sentence) for passage in passages for sentence in prose(passage.text)]
    if not quotable:
        return Said(DONT_KNOW)
    query_vector = embedder.embed([heard.text], kind="query")[0]
    # Under its headings a sentence such as "It opens at 9." says what it is about.
    sentence_vectors = embedder.embed(
        [_in_context(passage, sentence) for passage, sentence in quotable], kind="passage"
    )
    scores = sentence_vectors @ query_vector
    shortlist = np.argsort(-scores, kind="stable")[: options.candidates]
    shortlist = shortlist[scores[shortlist] >= options.threshold]
    if not len(shortlist):
        return Said(DONT_KNOW)
    if len(shortlist) > 1 and isinstance(generation, ScoringGeneration):
        generation.extend(looked_up(user_turn(heard), passages))
        scores[shortlist] += options.likelihood_weight * np.array(generation.score([quotable[i][1] for i in shortlist]))
    top = shortlist[np.argmax(scores[shortlist])]
    passage = quotable[top][0]
    quoted = [i for i in sorted(shortlist) if quotable[i][0] is passage and scores[i] >= scores[top] - options.tie]
    return Said(" ".join(quotable[i][1] for i in quoted), (passage.source,))


def _in_context(passage: Passage, sentence: str) -> str:
    return f"{passage.breadcrumb}. {sentence}" if passage.breadcrumb else sentence


_LIST_MARKER = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")


def prose(text: str) -> list[str]:
    """Split a passage into sentences, without its headings and list markers."""
    lines = [
        _LIST_MARKER.sub("", line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    return list(sentences(["\n".join(lines)]))
