"""What is being said while it is said: words that stay, and the list of hypotheses as soon as the speaker is silent."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from ..sound.audio import Audio, Samples
from ..sound.endpointing import EndpointOptions
from ..sound.segments import Segmenter, SpeechEnded, SpeechEvent, SpeechStarted
from ..transcript import Recognizer
from .agreement import VOICED
from .events import Draft, Partial, StreamEvent
from .utterance import Ended, Utterance
from .worker import InlineWorker, Job, ThreadWorker, Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """When to decode.

    Attributes:
        n_best: Length of the final list at most.
        first_partial: Seconds of sound, pre-roll included, before the first partial is decoded.
        partial_every: Seconds of sound between one partial and the next, or more where decoding is slow:
        partial_share: Partials keep the recogniser busy for at most this share of the time, so that it is mostly free
            when the speaker falls silent.
        draft_after: Seconds of silence after which the list is decoded as if the utterance were over. It is thrown away
            if it is not: shorter is sooner, and wasted more often.

    Raises:
        ValueError: If a value is not positive.
    """

    n_best: int = 5
    first_partial: float = 0.7
    partial_every: float = 0.4
    partial_share: float = 0.3
    draft_after: float = 0.032

    def __post_init__(self) -> None:
        if self.n_best < 1:
            raise ValueError(f"n_best must be at least 1, not {self.n_best}")
        if min(self.first_partial, self.partial_every, self.draft_after) <= 0:
            raise ValueError(
                f"first_partial={self.first_partial}, partial_every={self.partial_every} and "
                f"draft_after={self.draft_after} must be positive seconds"
            )
        if not 0 < self.partial_share <= 1:
            raise ValueError(f"partial_share={self.partial_share} must be a share above 0, at most 1; use 0.3")


class StreamingRecognizer:
    """Listens to a stream and says what is being said, utterance by utterance.

    For each utterance come, in this order: `SpeechStarted`; any number of `Partial` and `Draft`; `SpeechEnded`;
    `Final`. The next utterance may start before the `Final` of the one before is there.

    As soon as a short silence begins, the utterance is decoded as if it were over, so that its list is usually there
    before the end is certain. If speech goes on, that decode only counts for the partials.

    What was said long before need not be heard again: where the recogniser says when words were said, the sound is cut
    between two committed ones, and those before the cut become the prompt (Macháček et al. 2023, as in `Agreement`).
    What else they may have been stays in the list. If the rest does not begin with the words that were committed after
    the cut, all is heard again: for a list at once, for partials by the next.

    Recognisers run in a thread of their own, one call at a time: `feed` never waits for them. A partial is asked for
    only when nothing else is being decoded. Everything is decided by the time in the stream, counted in samples; what
    is not is how soon an answer is there. With `threaded=False` each answer is waited for, so that the same sound gives
    the same events; that is for files and tests.

    Args:
        recognizer: Makes the lists.
        segmenter: Default: Silero, and an end of utterance that adapts to the speaker's pauses.
        partials: Makes the partials; a cheaper one, by default the same.
        options: When to decode.
        threaded: Whether recognisers run in a thread of their own.

    Example:
        >>> with StreamingRecognizer(recognizer) as stream:  # doctest: +SKIP
        ...     for event in stream.walk(frames("order.flac")):
        ...         print(event)
    """

    def __init__(
        self,
        recognizer: Recognizer,
        segmenter: Segmenter | None = None,
        *,
        partials: Recognizer | None = None,
        options: StreamingOptions | None = None,
        threaded: bool = True,
    ) -> None:
        self.options = options or StreamingOptions()
        self._recognizer = recognizer
        self._partials = partials or recognizer
        self._segmenter = segmenter or Segmenter(endpoint=EndpointOptions())
        self._worker: Worker = ThreadWorker() if threaded else InlineWorker()
        self._utterance = Utterance()
        self._finals: deque[Ended] = deque()
        self._events: deque[StreamEvent | Exception] = deque()
        self._closed = False

    def feed(self, frame: Samples) -> tuple[StreamEvent, ...]:
        """Hear one frame and say what is new; does not wait for a recogniser.

        Args:
            frame: float32, 16 kHz, shape (512,).

        Raises:
            ValueError: If the stream is closed, or the frame has another shape.
            Exception: What the recogniser raised when it made a final list, in place of the `Final`; the stream may be
                fed on. When it fails on a partial or a draft, that is logged and the final list is tried again.
        """
        self._check()
        self._follow(self._segmenter.feed(frame))
        self._decode()
        return self._told()

    def finish(self) -> tuple[StreamEvent, ...]:
        """The stream is over: end what is still being said, wait for its list, and close.

        Raises:
            ValueError: If the stream is closed.
            Exception: As `feed`; call `finish` again for the events after it.
        """
        self._check()
        self._follow(self._segmenter.finish())
        while self._finals:
            self._finals[0].wait()
            self._collect()
        events = self._told()
        if not self._events:
            self.close()
        return events

    def walk(self, frames: Iterable[Samples]) -> Iterator[StreamEvent]:
        """Feed all frames, then finish."""
        for frame in frames:
            yield from self.feed(frame)
        yield from self.finish()

    def close(self) -> None:
        """Stop. Nothing more is decoded; a call of a recogniser that is under way is waited for."""
        self._closed = True
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the stream is closed; make another StreamingRecognizer for the next one")

    def _follow(self, events: Sequence[SpeechEvent]) -> None:
        for event in events:
            self._collect()
            self._events.append(event)
            if isinstance(event, SpeechStarted):
                self._utterance = Utterance(next_partial=event.at + self.options.first_partial)
            else:
                self._ended(event)

    def _ended(self, event: SpeechEnded) -> None:
        utterance, draft = self._utterance, self._utterance.draft
        # An utterance that was cut because it is too long may end before the silence that the draft was made in.
        usable = draft is not None and draft.silent_from <= event.end
        self._utterance = Utterance()
        self._finals.append(Ended(event, utterance.known.agreement, draft if usable else None))
        self._collect()

    def _ready(self, ended: Ended) -> bool:
        """See to the list of an utterance that is over; returns whether that is done."""
        if not ended.last_try and (ended.job is None or ended.job.error is not None):
            if ended.job is not None:
                logger.warning("a draft failed and is decoded again: %s", ended.job.error)
            # From the beginning: what is known by now may be of the next utterance.
            ended.job, ended.last_try = self._ask(self._recognizer, ended.event.audio, Utterance()), True
        assert ended.job is not None
        ended.job.needed = True
        return ended.job.done.is_set()

    def _decode(self) -> None:
        """Ask for what the present moment calls for: a draft in a silence, a partial in speech."""
        segmenter, utterance = self._segmenter, self._utterance
        if not segmenter.speaking:
            return
        if segmenter.silence == 0.0:
            utterance.draft = None  # speech goes on
            falling = segmenter.voice < VOICED  # a partial that begins now would keep a draft waiting
            if segmenter.seconds >= utterance.next_partial and not falling and not self._worker.busy:
                took = utterance.partial.seconds if utterance.partial is not None else 0.0
                pause = max(self.options.partial_every, took / self.options.partial_share)
                utterance.next_partial = segmenter.seconds + pause
                utterance.partial = self._ask(self._partials, segmenter.so_far(), utterance, again=False)
                utterance.decodes.append(utterance.partial)
        elif utterance.draft is None and segmenter.silence >= self.options.draft_after:
            utterance.draft = self._ask(self._recognizer, segmenter.so_far(), utterance)
            utterance.decodes.append(utterance.draft)

    def _ask(self, recognizer: Recognizer, audio: Audio, utterance: Utterance, *, again: bool = True) -> Job:
        at, known, pending = self._segmenter.seconds, utterance.known.copy(), tuple(utterance.decodes)
        decoded = partial(known.decoded, pending, recognizer, audio, self.options.n_best, again=again)
        job = Job(decoded, at, at - self._segmenter.silence)
        self._worker.ask(job)
        return job

    def _told(self) -> tuple[StreamEvent, ...]:
        """The events up to an error; the error itself, if it is the next."""
        self._collect()
        if self._events and isinstance(self._events[0], Exception):
            error = self._events.popleft()
            assert isinstance(error, Exception)
            raise error
        told: list[StreamEvent] = []
        while self._events and not isinstance(event := self._events[0], Exception):
            told.append(event)
            self._events.popleft()
        return tuple(told)

    def _collect(self) -> None:
        """Turn what has been decoded into events."""
        ready = [self._ready(ended) for ended in self._finals]  # asks for each, so none gives way to a later job
        for _ in itertools.takewhile(bool, ready):
            event = self._finals.popleft().told()
            if event is not None:
                self._events.append(event)
        utterance = self._utterance
        while utterance.decodes and utterance.decodes[0].done.is_set():
            self._heard(utterance.decodes.popleft(), utterance)

    def _heard(self, job: Job, utterance: Utterance) -> None:
        if job.error is not None:
            logger.warning("a decode on the way failed: %s", job.error)
        if job.transcript is not None and job is utterance.draft:
            self._events.append(Draft(job.transcript, job.at))
        agreement = utterance.known.agreement
        if utterance.known.hear(job):
            self._events.append(Partial(agreement.committed, agreement.tentative, job.at))
