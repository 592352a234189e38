"""The assistant: it joins the parts, and answers recordings, texts and live frames."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vivavoce.memory import Record, SQLiteRecord
from vivavoce.retrieval import Embedder, KnowledgeBase, Passage, QueryKnowledge
from vivavoce.speech import (
    Audio,
    EndpointOptions,
    Final,
    HibariSynthesizer,
    Recognizer,
    Segmenter,
    StreamingRecognizer,
    Synthesizer,
    Transcript,
    VoiceDetector,
)
from vivavoce.speech.live.events import StreamEvent
from vivavoce.speech.live.hearing import quickened
from vivavoce.speech.live.recognizer import StreamingOptions

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
from .turn.events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded, Understood
from .turn.state import AnswerOptions, Parts, Stopwatch, TurnState, Walk
from .understanding.skills import Outcome, Skill
from .weights.registry import ASR, EMBEDDING, LLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        turn_id: Its name in the record.
        heard: What was said, as a distribution.
        text: The answer; "" if a skill ignored what was heard.
        sources: Where it was looked up.
        decision: Whether to look up; None if the language model was not asked: nobody spoke, or a skill answered.
        passages: What was found; empty if nothing was looked up.
        audio: The answer, spoken; None without a synthesizer.
        timings: Milliseconds by stage.
        outcomes: What skills made of what was heard.
    """

    turn_id: str
    heard: Transcript
    text: str
    sources: tuple[str, ...]
    decision: Decision | None = None
    passages: tuple[Passage, ...] = ()
    audio: Audio | None = None
    timings: dict[str, float] = field(default_factory=dict, hash=False)
    outcomes: tuple[Outcome, ...] = ()


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
    ) -> None:
        """Put parts together; ``VoiceAgent.load`` does it with the default ones.

        Args:
            parts: What hears, decides, looks up, answers and remembers. They stay the caller's: ``close`` leaves them
                open.
            synthesizer: What speaks; None answers in text.
            detector: What ends an utterance in ``stream``, which works on a copy; the default is loaded when it is
                needed.
        """
        self.parts = parts
        self.synthesizer = synthesizer
        self._detector = detector
        self._opened = ExitStack()
        self.graph = graph.build()

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
        detector: VoiceDetector | None = None,
        skills: Sequence[Skill] = (),
        record: Record | None = None,
        home: str | Path | None = None,
        persona: Persona | None = None,
        options: AnswerOptions | None = None,
        device: Device = "auto",
        progress: weights.Progress | None = None,
    ) -> Self:
        """Load an assistant. ``close`` closes what is opened here, and nothing that was given.

        Args:
            knowledge: A knowledge base, a folder of documents, or the folder of an index; None answers without one.
            recognizer: A part, the name or folder of a Whisper model (for English, as all other parts are,
                and `quick`), or None for text only.
            model: A part, or the name or folder of a causal language model.
            gate: When to look up; by default P(``<RET>``) against the threshold that comes with the model.
            embedder: What documents are indexed with, and what compares sentences when answers are quoted.
            synthesizer: A part; True for the built-in voice, False or None for none.
            detector: What ends an utterance in ``stream``; by default Silero.
            skills: What may answer before the language model, or instead of it; asked in this order.
            record: Where turns are kept; by default in `home`, or only in this process without one.
            home: Folder for conversations.
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
            loaded_recognizer = listening.result()
            loaded_synthesizer = (
                speaking.result() if speaking else (None if isinstance(synthesizer, bool) else synthesizer)
            )
            embedder = embedding.result() if embedding else embedder
        options = options or AnswerOptions()
        if options.quote is None:
            options = replace(options, quote=is_small(chat))
        if options.quote and knowledge is not None and embedder is None:
            embedder = default_embedder(device)
        persona = persona or Persona()
        if isinstance(chat, TransformersChatModel):
            chat.warm(persona.messages())
        with ExitStack() as opened:
            if isinstance(knowledge, str | Path):
                knowledge = opened.enter_context(open_knowledge(knowledge, embedder, device=device))
            if record is None:
                file = Path(home) / "conversations.sqlite" if home else ":memory:"
                record = opened.enter_context(SQLiteRecord(file))
            parts = Parts(
                model=chat,
                gate=gate or default_gate(chat),
                record=record,
                recognizer=loaded_recognizer,
                knowledge=knowledge,
                embedder=embedder,
                skills=tuple(skills),
                persona=persona,
                options=options,
            )
            agent = cls(parts, synthesizer=loaded_synthesizer, detector=detector)
            agent._opened = opened.pop_all()
        return agent

    def ask(self, question: Audio | Transcript | str, *, thread_id: str = "default", speak: bool = True) -> Turn:
        """Ask one question and wait for the whole answer.

        Args:
            question: What was recorded, at any rate and length; what a recogniser heard in it; or what was typed.
            thread_id: Which conversation.
            speak: Whether to synthesize the answer.
        """
        latest: dict[type, Any] = {Said: Said("")}
        outcomes: list[Outcome] = []
        for event in self.events(question, thread_id=thread_id, speak=speak):
            latest[type(event)] = event
            if isinstance(event, Understood):
                outcomes.append(event.outcome)
        return Turn(
            turn_id=latest[TurnEnded].turn_id,
            heard=latest[Heard].transcript,
            text=latest[Said].text,
            sources=latest[Said].sources,
            decision=latest[Decided].decision if Decided in latest else None,
            passages=latest[Retrieved].passages if Retrieved in latest else (),
            audio=latest[Spoke].audio if Spoke in latest else None,
            timings=dict(latest[TurnEnded].timings),
            outcomes=tuple(outcomes),
        )

    def events(
        self, question: Audio | Transcript | str, *, thread_id: str = "default", speak: bool = True
    ) -> Iterator[Event]:
        """Ask one question and see everything as it happens; the answer is spoken while it is still being written.

        Stopping early (closing the iterator, Ctrl-C) cancels the turn; it is then not recorded.

        Args:
            question: What was recorded, at any rate and length; what a recogniser heard in it; or what was typed.
            thread_id: Which conversation.
            speak: Whether to synthesize the answer.

        Raises:
            SpeechError, RetrievalError, RecordError, AgentError: What went wrong, with its stage.
        """
        turn_id = uuid.uuid4().hex
        walk = Walk(self.parts, question)
        start: TurnState = {"turn_id": turn_id, "thread_id": thread_id}
        audio_pieces: list[Audio] = []
        turn_events = pull(partial(self._run, start, walk), walk.cancelled)
        try:
            for event in turn_events:
                yield event
                if isinstance(event, Said):
                    walk.delivered.set()
                elif isinstance(event, Saying) and speak:
                    for piece in self._synthesize(event.text, walk.watch):
                        audio_pieces.append(piece)
                        yield Speaking(piece, event.text)
        finally:
            walk.cancelled.set()
            walk.delivered.set()
            turn_events.close()
        if audio_pieces:
            yield Spoke(Audio.join(audio_pieces))
        walk.watch.mark("total")
        logger.info("turn %s: %s", turn_id, ", ".join(f"{k} {v:.0f}" for k, v in walk.watch.timings.items()))
        yield TurnEnded(turn_id, walk.watch.timings)

    def stream(
        self,
        frames: Iterable[NDArray[np.float32]],
        *,
        thread_id: str = "default",
        speak: bool = True,
        threaded: bool = True,
    ) -> Iterator[StreamEvent | Event]:
        """Listen to frames and answer every utterance in them.

        All that a ``StreamingRecognizer`` tells is passed on as it is: ``SpeechStarted``, ``Partial`` and ``Draft``
        while somebody speaks, ``SpeechEnded`` and ``Final`` at the end. Each ``Final`` in which somebody spoke is
        followed by the events of the turn that answers it; they begin with ``Heard``, which holds the same transcript.
        While a turn is answered no frames are taken.

        Args:
            frames: float32, mono, 16 kHz, [-1, 1], shape (512,) each, as ``vivavoce.speech.frames`` makes them.
            thread_id: Which conversation.
            speak: Whether to synthesize the answers.
            threaded: Whether the recogniser works in a thread of its own while frames go on coming, as those of a
                microphone do. Without, each decode is waited for, so that the same frames give the same events.

        Raises:
            SpeechError, RetrievalError, RecordError, AgentError: What went wrong, with its stage.
        """
        lists, partials = quickened(self.parts.require_recognizer())
        segmenter = Segmenter(copy.copy(self._detector), endpoint=EndpointOptions())
        options = StreamingOptions(n_best=self.parts.options.n_best)
        with StreamingRecognizer(lists, segmenter, partials=partials, options=options, threaded=threaded) as recognizer:
            for event in recognizer.walk(frames):
                yield event
                if isinstance(event, Final) and event.transcript.is_speech:
                    yield from self.events(event.transcript, thread_id=thread_id, speak=speak)

    def _run(self, start: TurnState, walk: Walk, emit: Callable[[Event], None]) -> None:
        """Run the graph in the producer thread of `pull`, and emit its events."""
        try:
            events: Iterator[Any] = self.graph.stream(start, context=walk, stream_mode="custom")
            for event in events:
                emit(event)
                if isinstance(event, Said):
                    # The graph stands still until the answer was taken: one that nobody waited for is not recorded.
                    walk.delivered.wait()
                    if walk.cancelled.is_set():
                        return
        finally:
            if walk.generation is not None:  # still open if the walk broke off before the answer
                walk.generation.close()

    def _synthesize(self, sentence: str, watch: Stopwatch) -> Iterator[Audio]:
        if self.synthesizer is None:
            return
        with watch.measure("speak"):
            for piece in self.synthesizer.speak(sentence):
                watch.mark("first_audio")
                yield piece

    def close(self) -> None:
        """Close what ``load`` has opened: the record that it made, the knowledge that it was given by path.

        Parts that were handed over stay open. Closing twice is the same as closing once.
        """
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
