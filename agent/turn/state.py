"""The state of a turn: words, scores and ids in the graph's state; audio, models and threads in its context."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict

from vivavoce.memory import Record
from vivavoce.retrieval import Embedder, KnowledgeBase, Passage, QueryKnowledge
from vivavoce.speech import Audio, Recognizer, Transcript

from ..errors import ConfigError
from ..model.chat import ChatModel, Generation
from ..model.gate import Decision, Gate
from ..model.prompts import Persona
from ..understanding.skills import Outcome, Skill
from .events import Said


class TurnState(TypedDict, total=False):
    """The graph's state; it lives as long as the turn. What is kept of a turn is in the record.

    Attributes:
        turn_id: Its name in the record.
        thread_id: Which conversation.
        recognized: What was said, as the recogniser heard it.
        heard: The same, as the skills left it; what the model reads and what is looked up.
        outcomes: What the skills made of it, in order.
        decision: Whether to look up.
        passages: What was found; not there if nothing was looked up.
        said: The answer.
    """

    turn_id: str
    thread_id: str
    recognized: Transcript
    heard: Transcript
    outcomes: tuple[Outcome, ...]
    decision: Decision
    passages: tuple[Passage, ...]
    said: Said


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options for answering.

    Attributes:
        n_best: Hypotheses asked of the recogniser.
        passages: How many passages are looked up.
        history: How many earlier turns the model reads at most.
        history_chars: How many characters of earlier turns it reads at most; of a turn it reads all or nothing.
        max_tokens: Longest answer.
        max_sentences: An answer in the model's own words ends after so many sentences; what is spoken should be short.
        quote: Answer a look-up with the sentence of the passages that fits best, word for word. Models too small to
            answer reliably in their own words need it; None asks the model's size: below a billion parameters quotes.
    """

    n_best: int = 5
    passages: int = 3
    history: int = 4
    history_chars: int = 4_000
    max_tokens: int = 64
    max_sentences: int = 2
    quote: bool | None = None

    def __post_init__(self) -> None:
        for name in ("n_best", "passages", "max_tokens", "max_sentences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("history", "history_chars"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Parts:
    """What an assistant is made of; every part is an object with one or two methods.

    Attributes:
        model: Answers, and says how probable a look-up is.
        gate: Decides whether to look up.
        record: Where turns are kept.
        recognizer: Hears; None for text only.
        knowledge: What is looked up in; None answers without.
        embedder: Compares sentences when answers are quoted.
        skills: What may answer before the model, or instead of it; asked in this order.
        persona: Who the assistant is.
        options: How answers are made.
    """

    model: ChatModel
    gate: Gate
    record: Record
    recognizer: Recognizer | None = None
    knowledge: KnowledgeBase | QueryKnowledge | None = None
    embedder: Embedder | None = None
    skills: tuple[Skill, ...] = ()
    persona: Persona = field(default_factory=Persona)
    options: AnswerOptions = field(default_factory=AnswerOptions)

    def require_recognizer(self) -> Recognizer:
        """The recogniser.

        Raises:
            ConfigError: If there is none.
        """
        if self.recognizer is None:
            raise ConfigError("This assistant has no recogniser: give one, or ask in text", stage="transcribe")
        return self.recognizer


class Stopwatch:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self.timings: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time a block as ``<stage>_ms``; several blocks of a stage are added up."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = 1000 * (time.perf_counter() - begin)
            self.timings[f"{stage}_ms"] = self.timings.get(f"{stage}_ms", 0.0) + spent

    def mark(self, moment: str) -> None:
        """Note, once, how long after the beginning something happened, as ``<moment>_ms``."""
        self.timings.setdefault(f"{moment}_ms", 1000 * (time.perf_counter() - self._begin))


@dataclass(slots=True)
class Walk:
    """The context of one run of the graph: the parts, and what lives only as long as the turn."""

    parts: Parts
    question: Audio | Transcript | str
    generation: Generation | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    cancelled: threading.Event = field(default_factory=threading.Event)
    delivered: threading.Event = field(default_factory=threading.Event)
