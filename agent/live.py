"""Live transcription: a recogniser made fast enough for a conversation, a microphone, and events in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vivavoce.speech import FRAME, SPEECH_RATE, Recognizer, Segmenter, VadOptions, WhisperRecognizer, frames
from vivavoce.speech.audio import Samples
from vivavoce.speech.endpointing import EndpointOptions
from vivavoce.speech.streaming import (
    Draft,
    Final,
    Partial,
    StreamEvent,
    StreamingOptions,
    StreamingRecognizer,
)
from vivavoce.speech.vad import SpeechEnded, SpeechStarted

from .errors import ConfigError

FRAME_SECONDS = FRAME / SPEECH_RATE
_TAIL = 2.0


def quickened(recognizer: Recognizer) -> tuple[Recognizer, Recognizer]:
    """The recogniser for final lists and the one for partials, on the model that is loaded.

    Whisper is set to be `quick`, with few beams and no samples, and for partials says when words were said, so that
    they need not be heard again. Others are taken as they are.
    """
    if not isinstance(recognizer, WhisperRecognizer):
        return recognizer, recognizer
    quick = replace(
        recognizer.options.quick(), tails=(_TAIL,), beams_per_hypothesis=2, patience=0.5, widen=False, samples=0
    )
    partials = replace(quick, beams_per_hypothesis=1, patience=1.0, word_times=True)
    return recognizer.with_options(quick), recognizer.with_options(partials)


def listening(
    lists: Recognizer,
    partials: Recognizer,
    *,
    n_best: int = 5,
    endpoint_delay: float | None = None,
    threaded: bool = True,
) -> StreamingRecognizer:
    """A stream that hears with two recognisers, which may be the same.

    Args:
        lists: Makes the final lists.
        partials: Makes the partials.
        n_best: Length of the final lists at most.
        endpoint_delay: Seconds of silence that end an utterance; by default they adapt to the speaker's pauses.
        threaded: Whether recognisers run in a thread of their own; without, each answer is waited for.

    Raises:
        ConfigError: If the delay is not positive.
    """
    options = StreamingOptions(n_best=n_best)
    return StreamingRecognizer(lists, _segmenter(endpoint_delay), partials=partials, options=options, threaded=threaded)


def _segmenter(endpoint_delay: float | None) -> Segmenter:
    if endpoint_delay is None:
        return Segmenter(endpoint=EndpointOptions())
    if endpoint_delay <= 0:
        raise ConfigError(f"The endpoint delay must be positive seconds, not {endpoint_delay}", stage="config")
    return Segmenter(options=VadOptions(min_silence=endpoint_delay, padding=min(VadOptions().padding, endpoint_delay)))


def in_real_time(sound: Iterable[Samples]) -> Iterator[Samples]:
    """Frames as a microphone gives them: each when its last sample would have been recorded."""
    begin = time.perf_counter()
    for number, frame in enumerate(sound, start=1):
        time.sleep(max(0.0, begin + number * FRAME_SECONDS - time.perf_counter()))
        yield frame


def microphone() -> Iterator[Samples]:
    """Frames from the default microphone, until the caller stops.

    Raises:
        ConfigError: If `sounddevice`, its library PortAudio, or a microphone is missing.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: there is no PortAudio
        raise ConfigError(
            f"Cannot listen to a microphone ({error}): run pip install 'vivavoce[mic]', and install PortAudio "
            "(libportaudio2), or name a file",
            stage="config",
        ) from error
    try:
        with sounddevice.InputStream(SPEECH_RATE, FRAME, channels=1, dtype="float32") as stream:
            while True:
                block, _ = stream.read(FRAME)
                yield block[:, 0]
    except sounddevice.PortAudioError as error:
        raise ConfigError(f"Cannot open a microphone ({error}): connect one, or name a file", stage="config") from error


def transcribe_live(
    source: Path | None,
    recognizer: Recognizer,
    console: Console,
    *,
    n_best: int = 5,
    endpoint_delay: float | None = None,
    realtime: bool = False,
    as_json: bool = False,
) -> None:
    """Show what is said while it is said.

    Args:
        source: A recording, or None for the microphone.
        recognizer: Any.
        console: Where people see it.
        n_best: Length of the final lists at most.
        endpoint_delay: Seconds of silence that end an utterance; by default they adapt to the speaker's pauses.
        realtime: Play a recording as fast as it was spoken, not as fast as it can be decoded.
        as_json: One event a line on stdout instead.

    Raises:
        AudioError: If the recording cannot be read.
        ConfigError: If there is no microphone.
    """
    if source is None:
        sound = microphone()
    else:
        sound = in_real_time(frames(source)) if realtime else frames(source)
    lists, partials = quickened(recognizer)
    with listening(
        lists, partials, n_best=n_best, endpoint_delay=endpoint_delay, threaded=source is None or realtime
    ) as stream:
        for event in stream.walk(sound):
            if as_json:
                sys.stdout.write(json.dumps(event_json(event), ensure_ascii=False) + "\n")
                sys.stdout.flush()
            elif (shown := _shown(event)) is not None:
                console.print(shown)


def event_json(event: StreamEvent) -> dict[str, Any]:
    """The event as the command line prints it."""
    match event:
        case SpeechStarted(at):
            return {"event": "speech_started", "at": round(at, 3)}
        case Partial(committed, tentative, at):
            return {"event": "partial", "committed": committed, "tentative": tentative, "at": round(at, 3)}
        case Draft(transcript, at):
            return {"event": "draft", "text": transcript.text, "at": round(at, 3)}
        case SpeechEnded(start=start, end=end):
            return {"event": "speech_ended", "start": round(start, 3), "end": round(end, 3)}
        case Final(transcript, _, start, end):
            listed = [
                {"text": h.text, "log_prob": h.log_prob, "posterior": posterior, "n_tokens": h.n_tokens}
                for h, posterior in zip(transcript.hypotheses, transcript.posteriors(), strict=True)
            ]
            line = {"event": "final", "start": round(start, 3), "end": round(end, 3), "hypotheses": listed}
            line |= {"is_speech": transcript.is_speech, "language": transcript.language, "revised": event.revised}
            return line if transcript.is_speech else {**line, "reason": transcript.reason}


def _shown(event: StreamEvent) -> Text | None:
    match event:
        case Partial(committed, tentative, at):
            return Text.assemble((f"{at:7.2f}  ", "dim"), committed, (tentative, "dim italic"))
        case Final(transcript, _, _, end):
            said = (transcript.text, "bold") if transcript.is_speech else (f"nothing: {transcript.reason}", "yellow")
            return Text.assemble((f"{end:7.2f}  ", "dim"), said)
    return None
