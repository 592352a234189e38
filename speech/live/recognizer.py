"""Streaming recognition: partials while somebody speaks, and the N-best list as soon as the speaker is silent."""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..sound.audio import Audio, Samples
from ..sound.endpointing import EndpointOptions
from ..sound.segments import Segmenter, SpeechEnded, SpeechEvent, SpeechStarted
from ..transcript import Recognizer
from .events import Draft, Partial, StreamEvent
from .utterance import EndedUtterance, Utterance
from .worker import InlineWorker, Job, ThreadWorker, Worker

logger = logging.getLogger(__name__)

_VOICED = 0.5
"""Probability of speech below which a frame may be the first of a silence."""


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
        whole_up_to: Seconds of sound up to which the list of an utterance is decoded from all of it. A longer utterance
            is decoded from its last cut on, which is sooner, but hears its beginning in no other way than the partials
            did; 0 cuts every one.

    Raises:
        ValueError: If a value is not positive.
    """

    n_best: int = 5
    first_partial: float = 0.7
    partial_every: float = 0.4
    partial_share: float = 0.3
    draft_after: float = 0.032
    whole_up_to: float = 10.0

    def __post_init__(self) -> None:
        if self.n_best < 1:
            raise ValueError(f"n_best must be at least 1, not {self.n_best}")
        if min(self.first_partial, self.partial_every, self.draft_after) <= 0:
            raise ValueError(
                f"first_partial={self.first_partial}, partial_every={self.partial_every} and "
                f"draft_after={self.draft_after} must be positive seconds"
            )
        if not self.whole_up_to >= 0:
            raise ValueError(f"whole_up_to={self.whole_up_to} must be 0 or more seconds; use 10.0")
        if not 0 < self.partial_share <= 1:
            raise ValueError(f"partial_share={self.partial_share} must be a share above 0, at most 1; use 0.3")


class StreamingRecognizer:
    """Listens to a stream and says what is being said, utterance by utterance.

    For each utterance come, in this order: `SpeechStarted`; any number of `Partial` and `Draft`; `SpeechEnded`;
    `Final`. The next utterance may start before the `Final` of the one before is there.

    As soon as a short silence begins, the utterance is decoded as if it were over, so that its list is usually there
    before the end is certain. If speech goes on, that decode only counts for the partials.

    Partials, and the lists of long utterances (`whole_up_to`), do not decode the beginning again: where the recogniser
    gives word times, the sound is cut between two committed words, and those before the cut become the prompt (Macháček
    et al. 2023, as in `Agreement`). Other hypotheses of the beginning stay in the list. If the remainder does not begin
    with the words that were committed after the cut, the whole utterance is decoded: for a list at once, for partials
    by the next.

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
        self._finals: deque[EndedUtterance] = deque()
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
        self._check_open()
        self._apply_speech_events(self._segmenter.feed(frame))
        self._schedule_decode()
        return self._pop_events()

    def finish(self) -> tuple[StreamEvent, ...]:
        """The stream is over: end what is still being said, wait for its list, and close.

        Raises:
            ValueError: If the stream is closed.
            Exception: As `feed`; call `finish` again for the events after it.
        """
        self._check_open()
        self._apply_speech_events(self._segmenter.finish())
        while self._finals:
            self._finals[0].wait()
            self._collect_results()
        events = self._pop_events()
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

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the stream is closed; make another StreamingRecognizer for the next one")

    def _apply_speech_events(self, events: Sequence[SpeechEvent]) -> None:
        for event in events:
            self._collect_results()
            self._events.append(event)
            if isinstance(event, SpeechStarted):
                self._utterance = Utterance(next_partial=event.at + self.options.first_partial)
            else:
                self._end_utterance(event)

    def _end_utterance(self, event: SpeechEnded) -> None:
        utterance, draft = self._utterance, self._utterance.draft
        # An utterance that was cut because it is too long may end before the silence that the draft was made in.
        usable = draft is not None and draft.silent_from <= event.end
        self._utterance = Utterance()
        self._finals.append(EndedUtterance(event, utterance.state.agreement, draft if usable else None))
        self._collect_results()

    def _has_final_list(self, ended: EndedUtterance) -> bool:
        """Whether the list of an ended utterance is decoded; submits the decode if there is none, or a draft failed."""
        if not ended.last_try and (ended.job is None or ended.job.error is not None):
            if ended.job is not None:
                logger.warning("a draft failed and is decoded again: %s", ended.job.error)
            # From the beginning: what is known by now may be of the next utterance.
            ended.job, ended.last_try = self._submit(self._recognizer, ended.event.audio, Utterance()), True
        assert ended.job is not None
        ended.job.needed = True
        return ended.job.done.is_set()

    def _schedule_decode(self) -> None:
        """Submit the decode that is due: a draft in a silence, a partial during speech."""
        segmenter, utterance = self._segmenter, self._utterance
        if not segmenter.speaking:
            return
        if segmenter.silence == 0.0:
            utterance.draft = None  # speech goes on
            falling = segmenter.voice < _VOICED  # a partial that begins now would keep a draft waiting
            if segmenter.seconds >= utterance.next_partial and not falling and not self._worker.busy:
                decode_seconds = utterance.partial.seconds if utterance.partial is not None else 0.0
                pause = max(self.options.partial_every, decode_seconds / self.options.partial_share)
                utterance.next_partial = segmenter.seconds + pause
                utterance.partial = self._submit(self._partials, segmenter.so_far(), utterance, partial=True)
                utterance.decodes.append(utterance.partial)
        elif utterance.draft is None and segmenter.silence >= self.options.draft_after:
            utterance.draft = self._submit(self._recognizer, segmenter.so_far(), utterance)
            utterance.decodes.append(utterance.draft)

    def _submit(self, recognizer: Recognizer, audio: Audio, utterance: Utterance, *, partial: bool = False) -> Job:
        """Have the audio of an utterance decoded, for a partial or for its list."""
        at, options = self._segmenter.seconds, self.options
        whole = not partial and audio.seconds <= options.whole_up_to
        decode = functools.partial(
            utterance.state.copy().decode,
            tuple(utterance.decodes),
            recognizer,
            audio,
            options.n_best,
            whole=whole,
            retry=not partial,
        )
        job = Job(decode, at, at - self._segmenter.silence)
        self._worker.submit(job)
        return job

    def _pop_events(self) -> tuple[StreamEvent, ...]:
        """Collect finished decodes and return the queued events up to the first error; raise that if it comes first."""
        self._collect_results()
        if self._events and isinstance(self._events[0], Exception):
            error = self._events.popleft()
            assert isinstance(error, Exception)
            raise error
        events: list[StreamEvent] = []
        while self._events and not isinstance(event := self._events[0], Exception):
            events.append(event)
            self._events.popleft()
        return tuple(events)

    def _collect_results(self) -> None:
        """Turn finished decodes into events."""
        ready = [self._has_final_list(ended) for ended in self._finals]  # of each, so that all are marked as needed
        for _ in itertools.takewhile(bool, ready):
            event = self._finals.popleft().result()
            if event is not None:
                self._events.append(event)
        utterance = self._utterance
        while utterance.decodes and utterance.decodes[0].done.is_set():
            self._apply_result(utterance.decodes.popleft(), utterance)

    def _apply_result(self, job: Job, utterance: Utterance) -> None:
        if job.error is not None:
            logger.warning("a decode on the way failed: %s", job.error)
        if job.transcript is not None and job is utterance.draft:
            self._events.append(Draft(job.transcript, job.at))
        agreement = utterance.state.agreement
        if utterance.state.update(job):
            self._events.append(Partial(agreement.committed, agreement.tentative, job.at))
