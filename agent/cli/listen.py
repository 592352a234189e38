"""Transcription while somebody speaks: its events, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from vivavoce.speech import Audio, Recognizer, Transcript, frames
from vivavoce.speech.live.events import Draft, Final, Partial, StreamEvent
from vivavoce.speech.live.hearing import listening, quickened
from vivavoce.speech.live.microphone import in_real_time, microphone
from vivavoce.speech.sound.segments import SpeechEnded, SpeechStarted


class WithHotwords:
    """A recogniser that always expects some words, for a stream, which names none.

    Args:
        recognizer: Hears.
        hotwords: Words that are likely to be said, in every call.
    """

    def __init__(self, recognizer: Recognizer, hotwords: Sequence[str]) -> None:
        self._recognizer = recognizer
        self._hotwords = tuple(hotwords)

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        """See ``Recognizer.transcribe``."""
        return self._recognizer.transcribe(audio, n_best=n_best, prompt=prompt, hotwords=(*self._hotwords, *hotwords))


def heard_live(
    source: Path | None,
    recognizer: Recognizer,
    *,
    n_best: int = 5,
    hotwords: Sequence[str] = (),
    realtime: bool = False,
) -> Iterator[StreamEvent]:
    """What is said, while it is said.

    Args:
        source: A recording, or None for the microphone.
        recognizer: Any; Whisper is made quick.
        n_best: Length of the final lists at most.
        hotwords: Words that are likely to be said.
        realtime: Play a recording as fast as it was spoken, not as fast as it can be decoded.

    Raises:
        AudioError: If the recording cannot be read, or there is no microphone.
    """
    if source is None:
        sound = microphone()
    else:
        sound = in_real_time(frames(source)) if realtime else frames(source)
    lists, partials = quickened(recognizer)
    if hotwords:
        lists, partials = WithHotwords(lists, hotwords), WithHotwords(partials, hotwords)
    with listening(lists, partials, n_best=n_best, threaded=source is None or realtime) as stream:
        yield from stream.walk(sound)


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
            line = {"event": "final", "start": round(start, 3), "end": round(end, 3)}
            line |= {"hypotheses": hypotheses_json(transcript), "is_speech": transcript.is_speech}
            line |= {"language": transcript.language, "revised": event.revised}
            return line if transcript.is_speech else {**line, "reason": transcript.reason}


def event_text(event: StreamEvent) -> Text | None:
    """The event for people: the words so far, and those that are final; None for what is not shown."""
    match event:
        case Partial(committed, tentative, at):
            return Text.assemble((f"{at:7.2f}  ", "dim"), committed, (tentative, "dim italic"))
        case Final(transcript, _, _, end):
            words = (transcript.text, "bold") if transcript.is_speech else (f"nothing: {transcript.reason}", "yellow")
            return Text.assemble((f"{end:7.2f}  ", "dim"), words)
    return None


def hypotheses_json(transcript: Transcript) -> list[dict[str, Any]]:
    """An N-best list as the command line prints it, best first."""
    return [
        {"text": h.text, "log_prob": h.log_prob, "posterior": posterior, "n_tokens": h.n_tokens}
        for h, posterior in zip(transcript.hypotheses, transcript.posteriors(), strict=True)
    ]
