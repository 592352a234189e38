"""How soon words are there when recordings are played in real time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vivavoce.speech import Audio, Recognizer, SpeechEnded, Transcript, VadOptions, frames, speech_segments
from vivavoce.speech.live.events import Final, Partial, StreamEvent
from vivavoce.speech.live.hearing import listening, quickened
from vivavoce.speech.live.microphone import in_real_time

from ..errors import ConfigError
from ..weights import Progress
from .metrics import word_error_rate
from .rows import Clip, watched

_SILENCE_AFTER = 1.0
_WARM_UP = 2


def evaluate_streaming(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    *,
    endpoint_delay: float | None = 0.5,
    n_best: int = 5,
    min_seconds: float = 3.0,
    max_seconds: float = 8.0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Play clips in real time, with a second of silence after each, and note when what was there.

    Speech begins and ends where the voice detector, run over the whole clip, hears its first and last frame of it.
    `final_ms` is from that end to the moment at which the final list is decoded, which is before the end is certain
    (`endpoint_ms`); `first_partial_ms` from that beginning to the first words, `first_committed_ms` to the first that
    stay. Two clips are played before the measurement, to warm the model up.

    Args:
        clips: Rows with `text`.
        recognizer: As it is loaded; `quickened` makes it quick. Its own settings make `wer_1best_offline`.
        endpoint_delay: Seconds of silence that end an utterance; None adapts to the speaker.
        n_best: Length of the lists.
        min_seconds: Shorter clips are left out,
        max_seconds: longer ones too.
        limit: Play no more than this many.
        progress: Told after each clip.

    Returns:
        The summary, and a row for each clip.

    Raises:
        ConfigError: If no clip is of that length, or speech is heard in none.
    """
    loaded = [(clip, clip.audio()) for clip in clips]
    chosen = [(clip, audio) for clip, audio in loaded if min_seconds <= audio.seconds <= max_seconds][:limit]
    if not chosen:
        raise ConfigError(
            f"No clip lasts {min_seconds:g} to {max_seconds:g} seconds: change --min-seconds and --max-seconds",
            stage="config",
        )
    for _, audio in chosen[:_WARM_UP]:
        _played(audio, recognizer, endpoint_delay, n_best)
    rows = []
    for clip, audio in watched(chosen, progress, "playing"):
        times = _played(audio, recognizer, endpoint_delay, n_best)
        if times is not None:
            offline = recognizer.transcribe(audio, n_best=1).text
            rows.append({"audio_filepath": clip.name, "reference": str(clip.row["text"]), **times, "offline": offline})
    if not rows:
        raise ConfigError("Speech was heard in none of the clips", stage="config")
    return _summary(rows), rows


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> list[float]:
        return [row[key] for row in rows if row[key] is not None]

    def median(key: str) -> float | None:
        return round(statistics.median(of(key)), 1) if of(key) else None

    references = [row["reference"] for row in rows]
    return {
        "n": len(rows),
        "final_ms_median": median("final_ms"),
        "final_ms_p95": round(float(np.percentile(of("final_ms"), 95)), 1) if of("final_ms") else None,
        "first_partial_ms_median": median("first_partial_ms"),
        "first_partial_ms_p95": round(float(np.percentile(of("first_partial_ms"), 95)), 1)
        if of("first_partial_ms")
        else None,
        "first_committed_ms_median": median("first_committed_ms"),
        "endpoint_ms_median": median("endpoint_ms"),
        "retractions": sum(row["retractions"] for row in rows),
        "revised": sum(row["revised"] for row in rows),
        "utterances": sum(row["utterances"] for row in rows),
        "hypotheses_mean": round(statistics.mean(row["hypotheses"] for row in rows), 2),
        "wer_final": word_error_rate(references, [row["final"] for row in rows]),
        "wer_1best_offline": word_error_rate(references, [row["offline"] for row in rows]),
    }


class _Clocked:
    """Notes when the last answer of a recogniser was there."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self.last: float | None = None

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        transcript = self._recognizer.transcribe(audio, n_best=n_best, prompt=prompt, hotwords=hotwords)
        self.last = time.perf_counter()
        return transcript


def _played(audio: Audio, recognizer: Recognizer, endpoint_delay: float | None, n_best: int) -> dict[str, Any] | None:
    """Play one clip; nothing if no speech is in it."""
    sound = Audio.join([audio, Audio.silence(_SILENCE_AFTER)])
    spoken = speech_segments(sound, options=VadOptions(padding=0.0))
    if not spoken:
        return None
    lists, partials = quickened(recognizer)
    clock = _Clocked(lists)
    events: list[tuple[float, StreamEvent]] = []
    with listening(clock, partials, n_best=n_best, endpoint_delay=endpoint_delay) as stream:
        begin = time.perf_counter()
        for frame in in_real_time(frames(sound)):
            events += [(time.perf_counter(), event) for event in stream.feed(frame)]
        events += [(time.perf_counter(), event) for event in stream.finish()]
    return _times(events, clock, begin + spoken[0].start, begin + spoken[-1].end)


def _times(
    events: Sequence[tuple[float, StreamEvent]], clock: _Clocked, speech_began: float, speech_ended: float
) -> dict[str, Any]:
    """Measurements of one clip, times in milliseconds."""
    partials = [(at, event) for at, event in events if isinstance(event, Partial)]
    finals = [event for _, event in events if isinstance(event, Final)]
    ends = [at for at, event in events if isinstance(event, SpeechEnded)]
    first = next((at for at, event in partials if event.text), None)
    committed = next((at for at, event in partials if event.committed), None)
    return {
        "final_ms": _ms(clock.last if finals else None, speech_ended),
        "first_partial_ms": _ms(first, speech_began),
        "first_committed_ms": _ms(committed, speech_began),
        "endpoint_ms": _ms(ends[-1] if ends else None, speech_ended),
        "retractions": _retractions([event for _, event in events]),
        "revised": sum(final.revised for final in finals),
        "utterances": len(finals),
        "hypotheses": len(finals[-1].transcript.hypotheses) if finals else 0,
        "final": " ".join(final.transcript.text for final in finals).strip(),
    }


def _ms(at: float | None, since: float) -> float | None:
    return None if at is None else round((at - since) * 1000, 1)


def _retractions(events: Sequence[StreamEvent]) -> int:
    """How often a partial took back a committed sign of the one before it in the same utterance."""
    committed, count = "", 0
    for event in events:
        if isinstance(event, SpeechEnded):
            committed = ""
        elif isinstance(event, Partial):
            count += not event.committed.startswith(committed)
            committed = event.committed
    return count
