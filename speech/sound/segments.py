"""Speech segments: where in a recording or a live stream somebody speaks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .audio import SPEECH_RATE, Audio, Samples
from .endpointing import Endpointing, EndpointOptions
from .vad import FRAME, BatchVoiceDetector, SileroDetector, VoiceDetector


@dataclass(frozen=True, slots=True)
class VadOptions:
    """When speech begins and ends.

    Attributes:
        threshold: Probability from which on a frame is speech.
        release: Probability below which speech may have ended; between the two it goes on (hysteresis).
        min_speech: Seconds; anything shorter is a click, not speech.
        min_silence: Seconds of silence that end a segment.
        padding: Seconds kept before and after a segment; at most `min_silence`.
        max_speech: Seconds after which a segment is cut at its least probable frame; at least 1 and twice
            `min_speech`.

    Raises:
        ValueError: If the values do not fit together.
    """

    threshold: float = 0.5
    release: float = 0.35
    min_speech: float = 0.16
    min_silence: float = 0.5
    padding: float = 0.3
    max_speech: float = 29.0

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1:
            raise ValueError(
                f"need 0 < release <= threshold < 1, not release={self.release}, threshold={self.threshold}; "
                "use 0.35 and 0.5"
            )
        if self.min_speech < 0 or self.min_silence <= 0:
            raise ValueError(
                f"min_speech={self.min_speech} and min_silence={self.min_silence} must be positive seconds"
            )
        if not 0 <= self.padding <= self.min_silence:
            raise ValueError(
                f"padding={self.padding} must lie between 0 and min_silence={self.min_silence}, "
                "or a segment would reach into sound that has not come yet"
            )
        if self.max_speech < max(1.0, 2 * self.min_speech):
            raise ValueError(f"max_speech={self.max_speech} must be at least 1 second and twice min_speech")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of speech.

    Attributes:
        start: Seconds from the beginning of the sound.
        end: Seconds.
        probability: Mean speech probability of its frames, without the padding.
    """

    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Window:
    """Speech that a recogniser decodes in one call.

    Attributes:
        audio: 16 kHz.
        start: Seconds from the beginning of the sound to the window's first sample.
        end: Seconds to its last.
        probability: That of its most probable segment.
    """

    audio: Audio
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """An utterance began.

    Attributes:
        at: Seconds from the beginning of the stream, padding included.
    """

    at: float


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """An utterance is over.

    Attributes:
        audio: What was said, with padding before and after; 16 kHz.
        start: Seconds from the beginning of the stream to the audio's first sample.
        end: Seconds to its last.
    """

    audio: Audio
    start: float
    end: float


SpeechEvent: TypeAlias = SpeechStarted | SpeechEnded


def speech_segments(
    audio: Audio, detector: VoiceDetector | None = None, options: VadOptions | None = None
) -> tuple[Segment, ...]:
    """The speech segments of a recording.

    Args:
        audio: Any rate and length.
        detector: Default: Silero. It is reset first.
        options: Default: `VadOptions()`.
    """
    detector = detector or SileroDetector()
    detector.reset()
    tracker = _Tracker(options or VadOptions())
    samples = audio.resampled(SPEECH_RATE).samples
    spans = [tracker.push(probability) for probability in _probabilities(detector, samples)]
    spans.append(tracker.finish(len(samples)))
    return tuple(span.segment for span in spans if span)


def speech_windows(
    blocks: Iterable[Audio],
    detector: VoiceDetector,
    options: VadOptions,
    *,
    longest: float = 30.0,
    longest_pause: float = 0.4,
    slow: float = 10.0,
    slow_pause: float = 1.0,
) -> Iterator[Window]:
    """Pack the speech of a stream into windows, keeping no more than about one of them in memory.

    A window ends at a pause longer than `longest_pause`: put into one window, sentences that do not belong together
    make Whisper leave out some of them. But people who speak slowly pause within a sentence, whose parts Whisper
    understands worse than the whole: up to `slow` seconds, only a pause longer than `slow_pause` ends a window.

    Args:
        blocks: The sound piece by piece, 16 kHz.
        detector: Is reset first, and hears the whole stream.
        options: `max_speech` plus twice `padding` must fit into `longest`.
        longest: Seconds that a window lasts at most.
        longest_pause: Seconds between two segments, padding not counted; shorter pauses stay inside a window.
        slow: Seconds of a window, the next segment included, up to which `slow_pause` holds.
        slow_pause: Seconds, as `longest_pause`.
    """
    detector.reset()
    tracker, recording = _Tracker(options), _Recording()
    packer = _WindowPacker(recording, *(round(s * SPEECH_RATE) for s in (longest, longest_pause, slow, slow_pause)))
    for block in blocks:
        for probability in _probabilities(detector, recording.extend(block.samples)):
            yield from packer.add(tracker.push(probability))
        recording.forget(tracker.begin - packer.longest_gap)
    for probability in _probabilities(detector, recording.tail):
        yield from packer.add(tracker.push(probability))
    yield from packer.add(tracker.finish(recording.length))
    yield from packer.flush()


class Segmenter:
    """Turns the frames of a live stream into `SpeechStarted` and `SpeechEnded`.

    Time is counted in frames received. An utterance's audio begins `padding` seconds before the first of the speech, so
    that no soft onset is lost. What is over is dropped from memory at once.

    Args:
        detector: Default: Silero. It belongs to this stream from now on.
        options: Default: 0.7 s of silence end an utterance.
        endpoint: Makes the silence that ends an utterance adapt to the speaker's own pauses (see `Endpointing`), in
            place of `min_silence`.

    Raises:
        ValueError: If the padding is longer than the shortest silence that ends an utterance.
    """

    def __init__(
        self,
        detector: VoiceDetector | None = None,
        options: VadOptions | None = None,
        endpoint: EndpointOptions | None = None,
    ) -> None:
        options = options or VadOptions(min_silence=0.7)
        if endpoint is not None and options.padding > endpoint.min_delay:
            raise ValueError(
                f"padding={options.padding} is longer than min_delay={endpoint.min_delay}, so an utterance would reach "
                "into sound that has not come yet; lower it with VadOptions(padding=...)"
            )
        self._detector = detector or SileroDetector()
        self._detector.reset()
        self._tracker = _Tracker(options)
        self._recording = _Recording()
        self._speaking = False
        self._probability = 0.0
        self._delay = options.min_silence
        self._endpointing = Endpointing(endpoint) if endpoint else None
        self._set_patience()

    @property
    def seconds(self) -> float:
        """Seconds heard so far."""
        return self._recording.length / SPEECH_RATE

    @property
    def speaking(self) -> bool:
        """Whether an utterance is under way: speech, or a silence after it that does not end it yet."""
        return self._speaking

    @property
    def silence(self) -> float:
        """Seconds since the last speech of the utterance under way; 0 while it goes on and between utterances."""
        return self._tracker.silence * FRAME / SPEECH_RATE if self._speaking else 0.0

    @property
    def voice(self) -> float:
        """The detector's probability of the last frame, which falls before a silence is counted."""
        return self._probability

    @property
    def delay(self) -> float:
        """Seconds of silence that end an utterance at present."""
        return self._delay if self._endpointing is None else self._endpointing.delay

    def so_far(self) -> Audio:
        """The audio of the utterance under way, up to the last frame fed; empty between utterances."""
        if not self._speaking:
            return Audio.silence(0)
        return Audio(self._recording.cut(self._tracker.begin, self._recording.length), SPEECH_RATE)

    def feed(self, frame: Samples) -> tuple[SpeechEvent, ...]:
        """Process one frame, float32, 16 kHz, shape (512,), and return the events that it causes."""
        self._recording.extend(np.array(frame, dtype=np.float32))  # a copy: the caller may fill its buffer again
        silence = self._tracker.silence
        self._probability = self._detector.probability(frame)
        events = self._speech_events(self._tracker.push(self._probability))
        if self._speaking and self._tracker.silence < silence:
            self._learn_pause(silence)
        self._recording.forget(self._tracker.begin)
        return events

    def finish(self) -> tuple[SpeechEvent, ...]:
        """End the stream, and the utterance under way with it."""
        return self._speech_events(self._tracker.finish(self._recording.length))

    def walk(self, frames: Iterable[Samples]) -> Iterator[SpeechEvent]:
        """Feed all frames, then finish."""
        for frame in frames:
            yield from self.feed(frame)
        yield from self.finish()

    def _speech_events(self, span: _Span | None) -> tuple[SpeechEvent, ...]:
        """The events of a frame, after which the tracker may have finished a span or begun another one."""
        events: list[SpeechEvent] = []
        if span is not None:
            if not self._speaking:
                events.append(SpeechStarted(span.segment.start))
            audio = Audio(self._recording.cut(span.start, span.end), SPEECH_RATE)
            events.append(SpeechEnded(audio, span.segment.start, span.segment.end))
            self._speaking = False
        if self._tracker.speaking and not self._speaking:
            events.append(SpeechStarted(self._tracker.begin / SPEECH_RATE))
            self._speaking = True
            if self._tracker.gap is not None:  # if it was short, the utterance before was ended in a pause
                self._learn_pause(self._tracker.gap)
        return tuple(events)

    def _learn_pause(self, pause: int) -> None:
        """Adapt the endpoint to a pause of so many frames, after which the speaker went on."""
        if self._endpointing is not None:
            self._endpointing.resumed(pause * FRAME / SPEECH_RATE)
            self._set_patience()

    def _set_patience(self) -> None:
        self._tracker.patience = _frames(self.delay)


def _probabilities(detector: VoiceDetector, samples: Samples) -> Iterable[float]:
    """Speech probability of each frame of `samples`; the last frame is filled up with zeros."""
    if not len(samples):
        return ()
    frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    if isinstance(detector, BatchVoiceDetector):
        return map(float, detector.probabilities(frames))
    return map(detector.probability, frames)


@dataclass(frozen=True, slots=True)
class _Span:
    """A finished segment in samples, padding included."""

    start: int
    end: int
    probability: float

    @property
    def segment(self) -> Segment:
        return Segment(self.start / SPEECH_RATE, self.end / SPEECH_RATE, self.probability)


class _Tracker:
    """The state machine of voice activity: takes a probability for each frame, returns the spans that it finishes."""

    def __init__(self, options: VadOptions) -> None:
        self._options = options
        self._min_speech = _frames(options.min_speech)
        self.patience = _frames(options.min_silence)
        """Frames of silence that end the speech."""
        self._max_speech = _frames(options.max_speech)
        self._padding = round(options.padding * SPEECH_RATE)
        self._frame = 0  # frames received
        self._first: int | None = None  # frame at which the present speech began
        self._quiet: int | None = None  # frame at which it may have ended
        self._probabilities: list[float] = []  # of its frames
        self._spent = 0  # samples up to here belong to a finished span
        self._last: int | None = None  # frame at which the speech of the last span ended

    @property
    def begin(self) -> int:
        """Sample at which the present speech begins, padding included; where it could begin if there is none."""
        first = self._frame if self._first is None else self._first
        return max(self._spent, first * FRAME - self._padding)

    @property
    def speaking(self) -> bool:
        """Whether speech is under way that is long enough to count."""
        if self._first is None:
            return False
        return (self._frame if self._quiet is None else self._quiet) - self._first >= self._min_speech

    @property
    def silence(self) -> int:
        """Frames of silence since the present speech; 0 if it goes on, or there is none."""
        return 0 if self._first is None or self._quiet is None else self._frame - self._quiet

    @property
    def gap(self) -> int | None:
        """Frames of silence between the last span and the present speech; None without either."""
        return None if self._first is None or self._last is None else self._first - self._last

    def push(self, probability: float) -> _Span | None:
        """Take the probability of the next frame; returns the span that it finishes."""
        self._frame += 1
        if self._first is None:
            if probability < self._options.threshold:
                return None
            self._first, self._quiet, self._probabilities = self._frame - 1, None, []
        self._probabilities.append(probability)
        if probability >= self._options.threshold:
            self._quiet = None
        elif probability < self._options.release and self._quiet is None:
            self._quiet = self._frame - 1
        if self._quiet is not None and self._frame - self._quiet >= self.patience:
            return self._end(self._quiet, self._quiet * FRAME + self._padding)
        return self._cut() if len(self._probabilities) >= self._max_speech else None

    def finish(self, length: int) -> _Span | None:
        """End at the last sample of a stream of `length` samples."""
        if self._first is None:
            return None
        last = self._frame if self._quiet is None else self._quiet
        return self._end(last, min(length, last * FRAME + self._padding))

    def _cut(self) -> _Span | None:
        """Split speech that lasts too long at its least probable frame within the last third."""
        assert self._first is not None
        last_third = len(self._probabilities) * 2 // 3
        at = last_third + int(np.argmin(self._probabilities[last_third:]))
        first, quiet, remaining = self._first + at, self._quiet, self._probabilities[at:]
        span = self._end(first, first * FRAME)
        self._first, self._probabilities = first, remaining
        self._quiet = None if quiet is None else max(quiet, first)
        return span

    def _end(self, last: int, end: int) -> _Span | None:
        assert self._first is not None
        start, count = self.begin, last - self._first
        probabilities, self._first, self._quiet, self._probabilities = self._probabilities[:count], None, None, []
        if count < self._min_speech:
            return None
        self._spent, self._last = end, last
        return _Span(start, end, float(np.mean(probabilities)))


class _Recording:
    """A buffer of the latest samples of a stream, addressed by their positions in the stream."""

    def __init__(self) -> None:
        self.length = 0
        self.tail: Samples = np.zeros(0, dtype=np.float32)
        """The samples after the last whole frame."""
        self._chunks: deque[Samples] = deque()
        self._begin = 0

    def extend(self, samples: Samples) -> Samples:
        """Append samples; returns the frames that they complete, as samples."""
        self._chunks.append(samples)
        self.length += len(samples)
        unframed = np.concatenate([self.tail, samples])
        complete = len(unframed) // FRAME * FRAME
        self.tail = unframed[complete:]
        return unframed[:complete]

    def forget(self, before: int) -> None:
        """Drop the chunks that end before a position of the stream."""
        while self._chunks and self._begin + len(self._chunks[0]) <= before:
            self._begin += len(self._chunks.popleft())

    def cut(self, start: int, end: int) -> Samples:
        """A copy of the samples [start, end)."""
        return np.concatenate(self._chunks)[start - self._begin : end - self._begin].copy()


class _WindowPacker:
    """Collects spans into windows of at most `longest` samples."""

    def __init__(self, recording: _Recording, longest: int, longest_pause: int, slow: int, slow_pause: int) -> None:
        self.longest_gap = max(longest_pause, slow_pause)
        self._recording = recording
        self._longest, self._longest_pause = longest, longest_pause
        self._slow, self._slow_pause = slow, slow_pause
        self._chunks: list[Samples] = []
        self._start = self._end = 0
        self._probability = 0.0

    def add(self, span: _Span | None) -> Iterator[Window]:
        """Take the next span, if there is one; yields the window that cannot hold it."""
        if span is None:
            return
        start = self._end if self._chunks else span.start
        pause = self._slow_pause if span.end - self._start <= self._slow else self._longest_pause
        if span.start - start > pause or span.end - self._start > self._longest:
            yield from self.flush()
            start = span.start
        if not self._chunks:
            self._start = start
        self._chunks.append(self._recording.cut(start, span.end))
        self._end = span.end
        self._probability = max(self._probability, span.probability)

    def flush(self) -> Iterator[Window]:
        """Yield the window under way, if it has speech in it."""
        if self._chunks:
            audio = Audio(np.concatenate(self._chunks), SPEECH_RATE)
            window = Window(audio, self._start / SPEECH_RATE, self._end / SPEECH_RATE, self._probability)
            self._chunks, self._probability = [], 0.0
            yield window


def _frames(seconds: float) -> int:
    """The least number of frames that last so long, at least one."""
    return max(1, math.ceil(seconds * SPEECH_RATE / FRAME))
