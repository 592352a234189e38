"""``vivavoce transcribe`` and ``speak``: sound to words, and words to sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

import typer
from rich.text import Text

from vivavoce.speech import Audio, Recognizer, Transcript
from vivavoce.speech.sound.audio import atomic_file

from ..concurrency import in_thread
from ..errors import ConfigError
from ..evaluation.rows import read_clips
from ..weights import Progress
from .console import progress, tell
from .listen import event_json, event_text, heard_live, hypotheses_json
from .options import OUTPUT, RECOGNISER, Json, LanguageOption, NBest, Recognising, grouped
from .screen import hypotheses_table

Write = Callable[[dict[str, Any]], None]
"""Writes one line of JSON."""


@dataclass(frozen=True)
class Transcribing(Recognising):
    """Which recogniser hears; it detects the language unless it is named."""

    language: LanguageOption = "auto"


@dataclass(frozen=True)
class Listing:
    """How long lists are, and what they are likely to hold."""

    panel: ClassVar[str] = RECOGNISER

    n_best: NBest = 5
    hotwords: Annotated[str, typer.Option(help="Words that are likely to be said, with commas between them.")] = ""

    def words(self) -> list[str]:
        """The likely words, one by one."""
        return [word.strip() for word in self.hotwords.split(",") if word.strip()]


@dataclass(frozen=True)
class Live:
    """Whether words are shown while they are said."""

    panel: ClassVar[str] = "Live"

    stream: Annotated[
        bool, typer.Option("--stream", help="Show words while they are said; of the microphone, if no file is named.")
    ] = False
    realtime: Annotated[
        bool, typer.Option("--realtime", help="With --stream: play recordings as fast as they were spoken.")
    ] = False

    def __post_init__(self) -> None:
        if self.realtime and not self.stream:
            raise typer.BadParameter("--realtime goes with --stream.")


@grouped
def transcribe(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE…", help="Recordings.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="NeMo manifest (JSON lines with audio_filepath).")] = None,
    *,
    recognising: Transcribing,
    listing: Listing,
    live: Live,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File for JSON lines, instead of the screen; with --stream, the final lists.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write down what was said, and what else it may have been (an N-best list)."""
    recordings = _recordings(files, manifest, live)
    with progress() as advance:
        recognizer = in_thread(lambda: recognising.opened(advance))
        if not live.stream:
            with json_lines(out_file) as write:
                for name, path in recordings:
                    line = {"audio_filepath": name, **_heard(recognizer, path, listing, advance)}
                    write(line)
                    if as_json or out_file is None:
                        tell(line, as_json, hypotheses_table(line, title=name))
            return
    with json_lines(out_file, growing=not recordings) as write:
        for line, shown in _live_lines(recognizer, recordings, listing, live):
            if line["event"] == "final":
                write(line)
            if as_json or shown is not None:
                tell(line, as_json, shown)


def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out_file: Annotated[Path, typer.Option("--out", help="WAV file to write.", rich_help_panel=OUTPUT)],
    voice: Annotated[str, typer.Option(help="Name of a built-in voice.")] = "heart",
    as_json: Json = False,
) -> None:
    """Say something into a WAV file."""
    from vivavoce.speech import HibariSynthesizer

    pieces = list(HibariSynthesizer(voice).speak(text))
    if not pieces:
        raise ConfigError(f"There is nothing in {text!r} that can be spoken: give a sentence", stage="config")
    audio = Audio.join(pieces)
    audio.write(out_file)
    tell({"path": str(out_file), "seconds": round(audio.seconds, 3)}, as_json, f"{out_file} ({audio.seconds:.1f} s)")


def _recordings(files: Sequence[Path] | None, manifest: Path | None, live: Live) -> list[tuple[str, Path]]:
    """Name and path of every recording; none means the microphone.

    Raises:
        typer.BadParameter: If none is named and the microphone is not meant.
        AudioError: If a recording that is to be played is none; better now than when it is its turn.
    """
    clips = [] if manifest is None else read_clips(manifest)
    named = [(str(file), file) for file in files or []] + [(clip.name, clip.path) for clip in clips]
    if not named and not live.stream:
        raise typer.BadParameter("Name a recording, or a --manifest.")
    if not named and live.realtime:
        raise typer.BadParameter("--realtime plays recordings: name one, or a --manifest.")
    if live.stream:
        for _, path in named:
            Audio.length(path)
    return named


def _live_lines(
    recognizer: Recognizer, recordings: Sequence[tuple[str, Path]], listing: Listing, live: Live
) -> Iterator[tuple[dict[str, Any], Text | None]]:
    """What is said in the recordings or into the microphone, as JSON and for people."""
    named: list[tuple[str, Path | None]] = [*recordings]
    for name, source in named or [("", None)]:
        file = {"audio_filepath": name} if name else {}
        for event in heard_live(
            source, recognizer, n_best=listing.n_best, hotwords=listing.words(), realtime=live.realtime
        ):
            yield {**file, **event_json(event)}, event_text(event)


def _heard(recognizer: Any, path: Path, listing: Listing, advance: Progress) -> dict[str, Any]:
    """The list of a recording of any length, as the command line prints it."""
    from vivavoce.speech.lists.nbest import joined

    seconds, hotwords = Audio.length(path), listing.words()
    if not hasattr(recognizer, "transcribe_long"):  # one's own: the protocol has one method
        return _transcript_json(recognizer.transcribe(Audio.read(path), n_best=listing.n_best, hotwords=hotwords))
    windows = []
    for window in recognizer.transcribe_long(path, n_best=listing.n_best, hotwords=hotwords):
        windows.append(window)
        if seconds > 60:
            advance(int(window.offset + window.duration), int(seconds), path.name)
    return _transcript_json(joined(windows, duration=seconds, n_best=listing.n_best))


def _transcript_json(heard: Transcript) -> dict[str, Any]:
    line: dict[str, Any] = {
        "hypotheses": hypotheses_json(heard),
        "entropy": heard.entropy,
        "confidence": heard.confidence,
        "no_speech_prob": heard.no_speech_prob,
        "is_speech": heard.is_speech,
        "language": heard.language,
        "duration": heard.duration,
    }
    return line if heard.is_speech else {**line, "reason": heard.reason}


@contextmanager
def json_lines(path: Path | None, *, growing: bool = False) -> Iterator[Write]:
    """A file of JSON lines, whole or not there; or `growing` with each line, so that Ctrl-C leaves what was heard.

    Args:
        path: The file; None for none.
        growing: What is there gives way to the first line.

    Raises:
        AudioError, ConfigError: If it cannot be written.
    """
    if path is None:
        yield lambda line: None
        return
    with _growing(path) if growing else atomic_file(path) as file:
        begun = False

        def write(line: dict[str, Any]) -> None:
            nonlocal begun
            if not begun:
                file.truncate(0)
                begun = True
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            file.flush()

        yield write


@contextmanager
def _growing(path: Path) -> Iterator[BinaryIO]:
    is_new = not path.exists()
    try:
        file = path.open("ab")
    except OSError as error:
        raise ConfigError(
            f"Cannot write {path} ({error.strerror}): name a file with --out that you can write", stage="config"
        ) from error
    try:
        with file:
            yield file
    finally:
        if is_new and not path.stat().st_size:
            path.unlink()
