"""Transcription while somebody speaks, in a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vivavoce.speech import Recognizer, frames
from vivavoce.speech.live.events import Draft, Final, Partial, StreamEvent
from vivavoce.speech.live.hearing import listening, quickened
from vivavoce.speech.live.microphone import in_real_time, microphone
from vivavoce.speech.sound.segments import SpeechEnded, SpeechStarted


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
