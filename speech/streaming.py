"""What is being said while it is said: words that stay, and the list of hypotheses as soon as the speaker is silent."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from .asr import Recognizer, Transcript, Word
from .audio import Audio, Samples
from .endpointing import EndpointOptions
from .nbest import distinct, varied
from .vad import Segmenter, SpeechEnded, SpeechEvent, SpeechStarted

logger = logging.getLogger(__name__)

# Languages that are written without blanks between words: there a sign is what can be committed.
_UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
_HEARD_AGAIN = 1.0
"""Seconds before now that every decode hears, however sure it is of the words in them,"""
_OVERLAP = 2
"""and committed words: they show whether the sound was cut between two words."""
_SAVED = 0.5
"""Seconds by which a later cut must shorten what is decoded."""
_VOICED = 0.5
"""Probability of speech under which a frame may be the first of a silence."""
_LEAST = 1e-4
"""Of a word's probability, before its logarithm is taken."""


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


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been said so far.

    Attributes:
        committed: Words that two successive decodes agreed on. Later partials of the utterance begin with this very
            string: case and punctuation of a committed word do not change either.
        tentative: What the last decode heard after them; may be anything else next time.
        at: Seconds from the beginning of the stream, up to which was heard.
    """

    committed: str
    tentative: str
    at: float

    @property
    def text(self) -> str:
        """Both together."""
        return f"{self.committed}{self.tentative}".strip()


@dataclass(frozen=True, slots=True)
class Draft:
    """The speaker is silent. If that was all, this will be the final transcript; if not, it is void.

    Attributes:
        transcript: The list of hypotheses of the utterance so far.
        at: Seconds from the beginning of the stream, up to which was heard.
    """

    transcript: Transcript
    at: float


@dataclass(frozen=True, slots=True)
class Final:
    """What was said in an utterance that is over.

    The list comes from a decode of the whole utterance and is not bound to the words that were committed on the way:
    `revised` says whether the best hypothesis contradicts them.

    Attributes:
        transcript: The list; without hypotheses, and with a reason, if it was not speech after all. Its `offset` is
            where the utterance starts in the stream.
        committed: The words that the last partial was sure of.
        start: Seconds from the beginning of the stream, padding included.
        end: Seconds.
    """

    transcript: Transcript
    committed: str
    start: float
    end: float

    @property
    def revised(self) -> bool:
        """Whether the best hypothesis does not begin with the committed words, case and punctuation aside."""
        before, after = (
            [_bare(piece) for piece in _pieces(text, self.transcript.language)]
            for text in (self.committed, self.transcript.text)
        )
        return after[: len(before)] != before


StreamEvent: TypeAlias = SpeechStarted | Partial | Draft | SpeechEnded | Final


class StreamingRecognizer:
    """Listens to a stream and says what is being said, utterance by utterance.

    For each utterance come, in this order: `SpeechStarted`; any number of `Partial` and `Draft`; `SpeechEnded`;
    `Final`. The next utterance may start before the `Final` of the one before is there.

    As soon as a short silence begins, the utterance is decoded as if it were over, so that its list is usually there
    before the end is certain. If speech goes on, that decode only counts for the partials.

    What was said long before need not be heard again: where the recogniser says when words were said, the sound is cut
    between two committed ones, and those before the cut become the prompt (Macháček et al. 2023, as in `_Agreement`).
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
        self._worker: _Worker = _Thread() if threaded else _Inline()
        self._utterance = _Utterance()
        self._finals: deque[_Ended] = deque()
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
                self._utterance = _Utterance(next_partial=event.at + self.options.first_partial)
            else:
                self._ended(event)

    def _ended(self, event: SpeechEnded) -> None:
        utterance, draft = self._utterance, self._utterance.draft
        # An utterance that was cut because it is too long may end before the silence that the draft was made in.
        usable = draft is not None and draft.silent_from <= event.end
        self._utterance = _Utterance()
        self._finals.append(_Ended(event, utterance.known.agreement, draft if usable else None))
        self._collect()

    def _ready(self, ended: _Ended) -> bool:
        """See to the list of an utterance that is over; returns whether that is done."""
        if not ended.last_try and (ended.job is None or ended.job.error is not None):
            if ended.job is not None:
                logger.warning("a draft failed and is decoded again: %s", ended.job.error)
            # From the beginning: what is known by now may be of the next utterance.
            ended.job, ended.last_try = self._ask(self._recognizer, ended.event.audio, _Utterance()), True
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
            falling = segmenter.voice < _VOICED  # a partial that begins now would keep a draft waiting
            if segmenter.seconds >= utterance.next_partial and not falling and not self._worker.busy:
                took = utterance.partial.seconds if utterance.partial is not None else 0.0
                pause = max(self.options.partial_every, took / self.options.partial_share)
                utterance.next_partial = segmenter.seconds + pause
                utterance.partial = self._ask(self._partials, segmenter.so_far(), utterance, again=False)
                utterance.decodes.append(utterance.partial)
        elif utterance.draft is None and segmenter.silence >= self.options.draft_after:
            utterance.draft = self._ask(self._recognizer, segmenter.so_far(), utterance)
            utterance.decodes.append(utterance.draft)

    def _ask(self, recognizer: Recognizer, audio: Audio, utterance: _Utterance, *, again: bool = True) -> _Job:
        at, known, pending = self._segmenter.seconds, utterance.known.copy(), tuple(utterance.decodes)
        decoded = partial(known.decoded, pending, recognizer, audio, self.options.n_best, again=again)
        job = _Job(decoded, at, at - self._segmenter.silence)
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

    def _heard(self, job: _Job, utterance: _Utterance) -> None:
        if job.error is not None:
            logger.warning("a decode on the way failed: %s", job.error)
        if job.transcript is not None and job is utterance.draft:
            self._events.append(Draft(job.transcript, job.at))
        agreement = utterance.known.agreement
        if utterance.known.hear(job):
            self._events.append(Partial(agreement.committed, agreement.tentative, job.at))


class _Agreement:
    """LocalAgreement-2: what two successive decodes begin with is committed.

    Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System", https://arxiv.org/abs/2307.14743.
    """

    def __init__(self) -> None:
        self._committed: list[str] = []
        self._rest: list[str] = []  # what the last decode heard after them

    @property
    def committed(self) -> str:
        return "".join(self._committed).lstrip()

    @property
    def pieces(self) -> Sequence[str]:
        """The committed words, each with the blank before it."""
        return self._committed

    @property
    def tentative(self) -> str:
        """With the blank before it, if something is committed."""
        rest = "".join(self._rest)
        return rest if self._committed else rest.lstrip()

    def hear(self, text: str, language: str) -> bool:
        """Take the next decode; returns whether something has changed."""
        before = (self.committed, self.tentative)
        pieces = _pieces(text, language)
        rest = pieces[_matched(self._committed, pieces) :]
        agreed = 0
        while agreed < min(len(rest), len(self._rest)) and _bare(rest[agreed]) == _bare(self._rest[agreed]):
            agreed += 1
        # Decodes of a cut sentence end it with a full stop: the newer one has heard what follows.
        self._committed += rest[:agreed]
        self._rest = rest[agreed:]
        return (self.committed, self.tentative) != before


def _pieces(text: str, language: str) -> list[str]:
    """Words, or signs in languages without blanks, each with the blanks before it."""
    if language in _UNSPACED:
        return re.findall(r"\s*\S", text)
    return [f" {word}" for word in text.split()]


def _bare(piece: str) -> str:
    return "".join(sign for sign in piece.casefold() if sign.isalnum())


def _matched(committed: Sequence[str], pieces: Sequence[str]) -> int:
    """How many pieces of a new decode stand for the committed ones: the beginning with the least edit distance."""
    known, new = [_bare(piece) for piece in committed], [_bare(piece) for piece in pieces]
    if new[: len(known)] == known:
        return len(known)
    row = list(range(len(new) + 1))
    for i, word in enumerate(known, start=1):
        diagonal, row[0] = row[0], i
        for k, other in enumerate(new, start=1):
            diagonal, row[k] = row[k], min(diagonal + (word != other), row[k] + 1, row[k - 1] + 1)
    return min(range(len(row)), key=lambda k: (row[k], abs(k - len(known))))


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where an utterance is decoded from.

    Attributes:
        at: Seconds from its beginning.
        words: What was said before, with times.
    """

    at: float = 0.0
    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    def later(self, transcript: Transcript, committed: Sequence[str]) -> _Cut:
        """The last cut between two committed words that leaves enough to hear; this one, if there is none."""
        words = transcript.hypotheses[0].words
        heard = _pieces(transcript.text, transcript.language)
        if len(words) != len(heard) or not _begins(heard, committed):
            return self
        for count in range(len(committed) - _OVERLAP, len(self.words), -1):
            at = (words[count - 1].end + words[count].start) / 2
            if at - self.at < _SAVED:
                return self
            if at <= transcript.duration - _HEARD_AGAIN:
                said = tuple(
                    replace(word, text=piece.strip()) for word, piece in zip(words, committed[:count], strict=False)
                )
                return _Cut(at, said)
        return self

    def joined(self, rest: Transcript, earlier: Transcript, n_best: int) -> Transcript:
        """A list of the whole utterance, from the list of what comes after the cut.

        All its hypotheses begin alike; each word of the beginning counts as one token. Each other beginning that the
        earlier list had gets the best ending, and is as much less probable than this one as it was there.
        """
        log_prob = math.fsum(math.log(max(word.probability, _LEAST)) for word in self.words)
        shifted = [
            replace(word, start=word.start + self.at, end=word.end + self.at) for word in rest.hypotheses[0].words
        ]
        listed = [
            replace(
                h,
                text=f"{self.text} {h.text}",
                log_prob=h.log_prob + log_prob,
                n_tokens=h.n_tokens + len(self.words),
                words=(*self.words, *shifted) if h.words else (),
            )
            for h in rest.hypotheses
        ]
        known = _pieces(self.text, rest.language)
        beginnings: dict[str, float] = {}
        for h in earlier.hypotheses:
            pieces = _pieces(h.text, rest.language)
            beginning = "".join(pieces[: _matched(known, pieces)]).strip()
            beginnings[beginning] = max(h.log_prob, beginnings.get(beginning, h.log_prob))
        same = [score for text, score in beginnings.items() if _bare(text) == _bare(self.text)]
        highest = max(same or beginnings.values())
        best, ending = listed[0], rest.hypotheses[0].text
        listed += [
            replace(best, text=f"{text} {ending}", log_prob=best.log_prob + min(0.0, score - highest), words=())
            for text, score in beginnings.items()
            if text and _bare(text) != _bare(self.text)
        ]
        hypotheses = varied(distinct(listed, language=rest.language), n_best, language=rest.language)
        return replace(rest, hypotheses=hypotheses)


@dataclass(slots=True)
class _Known:
    """What the decodes of an utterance have found out so far."""

    agreement: _Agreement = field(default_factory=_Agreement)
    latest: Transcript | None = None
    cut: _Cut = field(default_factory=_Cut)

    def copy(self) -> _Known:
        """What is known at this moment, for another thread."""
        return _Known(copy.deepcopy(self.agreement), self.latest, self.cut)

    def hear(self, job: _Job) -> bool:
        """Take the next decode, which is done; returns whether the words have changed."""
        transcript = job.transcript
        if job.misfit:
            self.cut = _Cut()
        if transcript is None or not transcript.is_speech:
            return False
        changed = self.agreement.hear(transcript.text, transcript.language)
        self.latest = transcript
        if transcript.language not in _UNSPACED:
            self.cut = self.cut.later(transcript, self.agreement.pieces)
        return changed

    def decoded(
        self, pending: Sequence[_Job], recognizer: Recognizer, audio: Audio, n_best: int, *, again: bool
    ) -> Transcript | None:
        """The list of the utterance so far; runs in the thread of the recogniser, when the pending ones are done.

        Returns:
            Nothing, if the cut does not fit and the sound is not to be heard `again` from its beginning.
        """
        for job in pending:
            self.hear(job)
        cut, latest = self.cut, self.latest
        if cut.words and latest is not None:
            rest = recognizer.transcribe(audio.slice(cut.at, audio.seconds), n_best=n_best, prompt=cut.text)
            expected = self.agreement.pieces[len(cut.words) : -1][:_OVERLAP]
            if rest.is_speech and _begins(_pieces(rest.text, rest.language), expected):
                return replace(cut.joined(rest, latest, n_best), duration=audio.seconds)
            logger.debug("the cut at %.2f s does not fit", cut.at)
            if not again:
                return None
        return recognizer.transcribe(audio, n_best=n_best)


def _begins(pieces: Sequence[str], with_: Sequence[str]) -> bool:
    """Whether words begin with others, case and punctuation aside."""
    return [_bare(piece) for piece in pieces[: len(with_)]] == [_bare(piece) for piece in with_]


@dataclass(slots=True)
class _Utterance:
    """The utterance under way."""

    next_partial: float = 0.0
    known: _Known = field(default_factory=_Known)
    partial: _Job | None = None
    draft: _Job | None = None
    decodes: deque[_Job] = field(default_factory=deque)


class _Job:
    """One call of a recogniser."""

    def __init__(self, work: Callable[[], Transcript | None], at: float, silent_from: float) -> None:
        self._work = work
        self.at = at
        self.silent_from = silent_from
        self.needed = False
        self.misfit = False  # the sound was cut where it should not be
        self.seconds = 0.0  # of work, where the stream does not wait for it
        self.transcript: Transcript | None = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self.transcript = self._work()
            self.misfit = self.transcript is None
        except Exception as error:
            self.error = error
        finally:
            del self._work  # it holds the jobs before it, and their sound
            self.done.set()


@dataclass(slots=True)
class _Ended:
    """An utterance that is over, and the call that makes its list."""

    event: SpeechEnded
    agreement: _Agreement
    job: _Job | None
    last_try: bool = False

    def wait(self) -> None:
        assert self.job is not None
        self.job.done.wait()

    def told(self) -> Final | Exception | None:
        """Nothing, if the stream was closed before the call began."""
        job, event = self.job, self.event
        if job is None or job.transcript is None:
            return job.error if job else None
        # A draft was made before the padding after the speech had come.
        transcript = replace(job.transcript, duration=event.audio.seconds, offset=event.start)
        return Final(transcript, self.agreement.committed, event.start, event.end)


class _Worker(Protocol):
    """Runs jobs one at a time."""

    @property
    def busy(self) -> bool: ...

    def ask(self, job: _Job) -> None: ...

    def close(self) -> None: ...


class _Inline:
    """Runs a job when it is asked for."""

    busy = False

    def ask(self, job: _Job) -> None:
        job.run()

    def close(self) -> None:
        pass


class _Thread:
    """Runs jobs in a thread. A job that waits gives way to a newer one, unless its answer is needed."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: list[_Job] = []
        self._running = self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        with self._change:
            return self._running or bool(self._waiting)

    def ask(self, job: _Job) -> None:
        with self._change:
            for stale in [other for other in self._waiting if not other.needed]:
                self._waiting.remove(stale)
                stale.done.set()
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vivavoce-recognizer", daemon=True)
                self._thread.start()
            self._change.notify()

    def close(self) -> None:
        with self._change:
            self._closed = True
            for job in self._waiting:
                job.done.set()
            self._waiting.clear()
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._running = False
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job, self._running = self._waiting.pop(0), True
            began = time.perf_counter()
            job.run()
            job.seconds = time.perf_counter() - began
