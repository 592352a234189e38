"""The assistant: parts put together, and the doors through which one talks to it."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from langgraph.checkpoint.sqlite import SqliteSaver
from numpy.typing import NDArray

from vivavoce.memory import Record, SQLiteRecord
from vivavoce.retrieval import Embedder, KnowledgeBase, Passage, QueryKnowledge
from vivavoce.speech import (
    Audio,
    HibariSynthesizer,
    Recognizer,
    Segmenter,
    SileroDetector,
    SpeechEnded,
    Synthesizer,
    Transcript,
    VoiceDetector,
)

from . import weights
from .concurrency import on_model_thread, pull
from .model.chat import ChatModel, Device
from .model.embedder import default_embedder
from .model.gate import Decision, Gate
from .model.local import TransformersChatModel
from .model.prompts import Persona
from .opening import (
    default_gate,
    import_shared,
    is_small,
    open_chat_model,
    open_conversation_recognizer,
    open_knowledge,
)
from .turn import graph
from .turn.events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded
from .turn.state import AnswerOptions, Parts, Stopwatch, TurnState, Walk, serializer
from .weights.registry import ASR, EMBEDDING, LLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        turn_id: Its name in the record.
        heard: What was said, as a distribution.
        text: The answer.
        sources: Where it was looked up.
        decision: Whether to look up; None if nobody spoke.
        passages: What was found; empty if nothing was looked up.
        audio: The answer, spoken; None without a synthesizer.
        timings: Milliseconds by stage.
    """

    turn_id: str
    heard: Transcript
    text: str
    sources: tuple[str, ...]
    decision: Decision | None = None
    passages: tuple[Passage, ...] = ()
    audio: Audio | None = None
    timings: dict[str, float] = field(default_factory=dict, hash=False)


class VoiceAgent:
    """A voice assistant that knows when it misheard and when to look something up.

    Conversations are told apart by ``thread_id`` and go on where they ended, also after a restart. Calls from several
    threads are safe as long as each conversation is spoken to by one at a time.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        synthesizer: Synthesizer | None = None,
        detector: VoiceDetector | None = None,
        checkpoints: str | Path | None = None,
    ) -> None:
        """Put parts together; ``VoiceAgent.load`` does it with the default ones.

        Args:
            parts: What hears, decides, looks up, answers and remembers.
            synthesizer: What speaks; None answers in text.
            detector: What ends an utterance in ``stream``; the default is loaded when it is needed.
            checkpoints: SQLite file for the graph's checkpoints; None keeps them in no file.
        """
        self.parts = parts
        self.synthesizer = synthesizer
        self._detector = detector
        self._saver: SqliteSaver | None = None
        if checkpoints is not None:
            connection = sqlite3.connect(str(checkpoints), check_same_thread=False)
            self._saver = SqliteSaver(connection, serde=serializer())
        self.graph = graph.build(self._saver)

    @classmethod
    def load(
        cls,
        knowledge: KnowledgeBase | QueryKnowledge | str | Path | None = None,
        *,
        recognizer: Recognizer | str | None = ASR,
        model: ChatModel | str = LLM,
        gate: Gate | None = None,
        embedder: Embedder | None = None,
        synthesizer: Synthesizer | bool | None = True,
        record: Record | None = None,
        home: str | Path | None = None,
        persona: Persona | None = None,
        options: AnswerOptions | None = None,
        device: Device = "auto",
        progress: weights.Progress | None = None,
    ) -> Self:
        """Load an assistant.

        Args:
            knowledge: A knowledge base, a folder of documents, or the folder of an index; None answers without one.
            recognizer: A part, the name or folder of a Whisper model (for English, as all other parts are,
                and `quick`), or None for text only.
            model: A part, or the name or folder of a causal language model.
            gate: When to look up; by default P(``<RET>``) against the threshold that comes with the model.
            embedder: What documents are indexed with, and what compares sentences when answers are quoted.
            synthesizer: A part; True for the built-in voice, False or None for none.
            record: Where turns are kept; by default in `home`, or only in this process without one.
            home: Folder for conversations and checkpoints.
            persona: Who the assistant is.
            options: How answers are made.
            device: Where the models run: auto, cpu or cuda.
            progress: Called with (done, total, label) while weights are fetched.

        Raises:
            ModelUnavailable: If weights are not here and cannot be fetched.
            ConfigError: If a part, a name or the device cannot be used.
            RetrievalError: If the knowledge base cannot be opened.
        """
        indexed = isinstance(knowledge, str | Path)
        for name in (recognizer, model, EMBEDDING if indexed and embedder is None else None):
            if isinstance(name, str):
                weights.resolve(name, progress=progress)
        # Importing and reading weights take turns in needing Python, the disk and the cores: threads overlap them. This
        # one only waits: Ctrl-C would break off its import of torch, which the others would then try again, and crash.
        on_model_thread(import_shared)
        with ThreadPoolExecutor(4, thread_name_prefix="vivavoce-load") as pool:
            embedding = pool.submit(default_embedder, device) if indexed and embedder is None else None
            listening = pool.submit(open_conversation_recognizer, recognizer, device)
            speaking = pool.submit(HibariSynthesizer) if synthesizer is True else None
            chat = pool.submit(open_chat_model, model, device).result()
            hears = listening.result()
            speaks = speaking.result() if speaking else (None if isinstance(synthesizer, bool) else synthesizer)
            embedder = embedding.result() if embedding else embedder
        options = options or AnswerOptions()
        if options.quote is None:
            options = replace(options, quote=is_small(chat))
        if options.quote and knowledge is not None and embedder is None:
            embedder = default_embedder(device)
        found = open_knowledge(knowledge, embedder, device=device) if isinstance(knowledge, str | Path) else knowledge
        if home is not None:
            Path(home).mkdir(parents=True, exist_ok=True)
        persona = persona or Persona()
        if isinstance(chat, TransformersChatModel):
            chat.warm(persona.messages())
        parts = Parts(
            model=chat,
            gate=gate or default_gate(chat),
            record=record or SQLiteRecord(Path(home) / "conversations.sqlite" if home else ":memory:"),
            recognizer=hears,
            knowledge=found,
            embedder=embedder,
            persona=persona,
            options=options,
        )
        return cls(parts, synthesizer=speaks, checkpoints=Path(home) / "checkpoints.sqlite" if home else None)

    def ask(self, question: Audio | str, *, thread_id: str = "default", speak: bool = True) -> Turn:
        """Ask one question and wait for the whole answer.

        Args:
            question: What was recorded, at any rate and length, or what was typed.
            thread_id: Which conversation.
            speak: Whether to synthesize the answer.
        """
        seen: dict[type, Any] = {}
        for event in self.events(question, thread_id=thread_id, speak=speak):
            seen[type(event)] = event
        return Turn(
            turn_id=seen[TurnEnded].turn_id,
            heard=seen[Heard].transcript,
            text=seen[Said].text,
            sources=seen[Said].sources,
            decision=seen[Decided].decision if Decided in seen else None,
            passages=seen[Retrieved].passages if Retrieved in seen else (),
            audio=seen[Spoke].audio if Spoke in seen else None,
            timings=dict(seen[TurnEnded].timings),
        )

    def events(self, question: Audio | str, *, thread_id: str = "default", speak: bool = True) -> Iterator[Event]:
        """Ask one question and see everything as it happens; the answer is spoken while it is still being written.

        Stopping early (closing the iterator, Ctrl-C) cancels the turn; it is then not recorded.

        Raises:
            SpeechError, RetrievalError, RecordError, AgentError: What went wrong, with its stage.
        """
        turn_id = uuid.uuid4().hex
        walk = Walk(self.parts, audio=question if isinstance(question, Audio) else None)
        start: TurnState = {"turn_id": turn_id, "thread_id": thread_id}
        if isinstance(question, str):
            start["typed"] = question

        spoken: list[Audio] = []
        happening = pull(partial(self._run, start, walk), walk.cancelled)
        try:
            for event in happening:
                yield event
                if isinstance(event, Said):
                    walk.delivered.set()
                elif isinstance(event, Saying) and speak:
                    for piece in self._aloud(event.text, walk.watch):
                        spoken.append(piece)
                        yield Speaking(piece, event.text)
        finally:
            walk.cancelled.set()
            walk.delivered.set()
            happening.close()
        if spoken:
            yield Spoke(Audio.join(spoken))
        walk.watch.mark("total")
        logger.info("turn %s: %s", turn_id, ", ".join(f"{k} {v:.0f}" for k, v in walk.watch.timings.items()))
        yield TurnEnded(turn_id, walk.watch.timings)

    def stream(
        self, frames: Iterable[NDArray[np.float32]], *, thread_id: str = "default", speak: bool = True
    ) -> Iterator[Event]:
        """Listen to frames and answer every utterance in them.

        Args:
            frames: float32, mono, 16 kHz, [-1, 1], shape (512,) each, as ``vivavoce.speech.frames`` makes them.
            thread_id: Which conversation.
            speak: Whether to synthesize the answers.
        """
        for event in Segmenter(self._detector or SileroDetector()).walk(frames):
            if isinstance(event, SpeechEnded):
                yield from self.events(event.audio, thread_id=thread_id, speak=speak)

    def _run(self, start: TurnState, walk: Walk, emit: Callable[[Event], None]) -> None:
        """Walk through the graph, in the thread of `pull`."""
        config: Any = {"configurable": {"thread_id": start["thread_id"]}}
        # "exit": one checkpoint when the walk ends, instead of one after every step.
        durability: Any = {"durability": "exit"} if self._saver is not None else {}
        try:
            for event in self.graph.stream(start, config, context=walk, stream_mode="custom", **durability):
                emit(event)
                if isinstance(event, Said):
                    # The graph stands still until the answer was taken: one that nobody waited for is not recorded.
                    walk.delivered.wait()
                    if walk.cancelled.is_set():
                        return
        finally:
            if walk.generation is not None:  # still open if the walk broke off before the answer
                walk.generation.close()

    def _aloud(self, sentence: str, watch: Stopwatch) -> Iterator[Audio]:
        if self.synthesizer is None:
            return
        with watch.measure("speak"):
            for piece in self.synthesizer.speak(sentence):
                watch.mark("first_audio")
                yield piece

    def close(self) -> None:
        """Close the files of record and checkpoints."""
        if self._saver is not None:
            self._saver.conn.close()
        if isinstance(self.parts.record, SQLiteRecord):
            self.parts.record.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
