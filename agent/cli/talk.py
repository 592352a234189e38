"""``vivavoce ask`` and ``chat``: questions to the assistant, spoken or typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vivavoce.speech import Audio, Recognizer, WhisperOptions

from ..concurrency import in_thread
from ..errors import ConfigError, GenerationError
from ..model.chat import Device
from ..turn.events import Heard
from ..weights import Progress
from ..weights.registry import ASR, LLM
from .console import err, out, progress
from .options import (
    OUTPUT,
    RECOGNISER,
    DeviceOption,
    EngineOption,
    Json,
    LanguageOption,
    NBest,
    grouped,
    refuse_language_of_own,
    spoken,
)
from .screen import Screen

if TYPE_CHECKING:
    from ..assistant import VoiceAgent

SOUNDS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".m4a"})
"""Endings by which a word names a recording, even one that is not there."""


@dataclass(frozen=True)
class Conversing:
    """Options of the conversation: knowledge, thread, persona and language model."""

    panel: ClassVar[str] = "Conversation"

    knowledge: Annotated[Path | None, typer.Option("--knowledge", help="A folder of documents, or an index.")] = None
    thread: Annotated[
        str | None, typer.Option("--thread", help="Go on with this conversation; it is kept on disk.")
    ] = None
    persona: Annotated[Path | None, typer.Option(help="JSON file: who the assistant is.")] = None
    model: Annotated[
        str, typer.Option("--model", help="The language model that answers: a name of `models list`, or a folder.")
    ] = LLM

    @property
    def thread_id(self) -> str:
        """The conversation's id; "default" for one that is not kept."""
        return self.thread or "default"


@dataclass(frozen=True)
class Hearing:
    """Options of the recogniser."""

    panel: ClassVar[str] = RECOGNISER

    engine: EngineOption = "ctranslate2"
    asr_model: Annotated[
        str | None,
        typer.Option("--asr-model", help="What the engine runs, a name or a folder; Whisper base, if none."),
    ] = None
    language: LanguageOption = "en"
    n_best: NBest = 5

    def __post_init__(self) -> None:
        refuse_language_of_own(self.engine, self.language, type(self).language)

    def opened(self, device: Device, progress: Progress) -> Recognizer | str:
        """Load the recogniser; or name the default one, which the assistant loads faster, beside its other parts.

        Raises:
            ConfigError, ModelUnavailable, SpeechError: See `open_recognizer`.
        """
        from ..opening import DEFAULT, open_recognizer, open_whisper

        if self.engine != DEFAULT:
            return open_recognizer(
                self.engine, self.asr_model, device=device, language=spoken(self.language), progress=progress
            )
        if self.language == type(self).language:
            return self.asr_model or ASR
        options = WhisperOptions(language=spoken(self.language)).quick()
        return open_whisper(self.asr_model, device, progress, options=options)

    def refuse_without_recordings(self) -> None:
        """Refuse options of the recogniser when there is no recording.

        Raises:
            typer.BadParameter: If a recogniser is named, or how long its lists are.
        """
        if self != type(self)():
            raise typer.BadParameter(
                "--engine, --asr-model, --language and --n-best go with recordings; all questions are text."
            )


@grouped
def ask(
    questions: Annotated[
        list[str],
        typer.Argument(
            metavar="AUDIO|TEXT…",
            help="Recordings, or questions in quotes. A file that exists is a recording, and so is a name without "
            "blanks that ends like one (.wav, .flac, .mp3 …); all else is a question.",
        ),
    ],
    *,
    conversing: Conversing,
    hearing: Hearing,
    device: DeviceOption = "auto",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for the spoken answers (WAV).", rich_help_panel=OUTPUT)
    ] = None,
    no_speech: Annotated[
        bool, typer.Option("--no-speech", help="Answer in text only.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer questions one after the other, each a recording or a text."""
    if no_speech and out_dir is not None:
        raise typer.BadParameter("--out is for spoken answers, and with --no-speech there are none: leave one out.")
    inputs = [read_question(question) for question in questions]
    listens = any(isinstance(question, Audio) for question in inputs)
    if not listens:
        hearing.refuse_without_recordings()
    if out_dir is not None:
        _make_writable_folder(out_dir, "answers", "name with --out")
    with _agent(conversing, device, hearing=hearing, listens=listens, speaks=not no_speech) as agent:
        screen = Screen(out, as_json=as_json)
        for number, (question, name) in enumerate(zip(inputs, questions, strict=True), start=1):
            screen.begin_question(name)
            path = out_dir / f"{number:02d}-{_stem(question, name)}.wav" if out_dir is not None else None
            for event in agent.events(question, thread_id=conversing.thread_id, speak=not no_speech):
                screen.show(event, spoken_to=path)


@grouped
def chat(
    text: Annotated[bool, typer.Option("--text", hidden=True, help="The default, and all there is.")] = False,
    *,
    conversing: Conversing,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Type questions, and read the answers; an empty line or Ctrl-D ends it."""
    with _agent(conversing, device, hearing=Hearing(), listens=False, speaks=False) as agent:
        screen = Screen(out, as_json=as_json)
        prompting = sys.stdin.isatty()
        for line in _typed_lines(prompting):
            try:
                for event in agent.events(line, thread_id=conversing.thread_id, speak=False):
                    if as_json or not isinstance(event, Heard):  # people see what they have just typed
                        screen.show(event)
            except GenerationError as error:
                if not prompting:  # whoever reads from a pipe is to see that it failed
                    raise
                err.print(f"{error}.", style="red", markup=False)


def read_question(text: str) -> Audio | str:
    """Read a recording if the text names one (a file, or one word that ends like a sound file); else return the text.

    Raises:
        typer.BadParameter: If it is empty, or a folder.
        AudioError: If the recording is not there, or cannot be read.
    """
    if not text.strip():
        raise typer.BadParameter("The question is empty: give a recording or a text.")
    path = Path(text)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # longer than a file name may be, or with a null character
        is_file = is_folder = False
    if is_folder:
        raise typer.BadParameter(f"{text} is a folder: name the recordings in it.")
    names_sound = path.suffix.lower() in SOUNDS
    if is_file or (names_sound and len(text.split()) == 1):
        return Audio.read(path, rate=16_000)
    if names_sound:
        err.print(f"There is no file {text!r}, so it is taken for a question.", style="yellow", markup=False)
    return text


@contextmanager
def _agent(
    conversing: Conversing, device: Device, *, hearing: Hearing, listens: bool, speaks: bool
) -> Iterator[VoiceAgent]:
    from ..assistant import VoiceAgent
    from ..model.prompts import Persona
    from ..turn.state import AnswerOptions

    with progress() as advance:
        agent = in_thread(
            lambda: VoiceAgent.load(
                conversing.knowledge,
                model=conversing.model,
                synthesizer=speaks,
                home=_home() if conversing.thread is not None else None,
                persona=Persona.load(conversing.persona) if conversing.persona else None,
                options=AnswerOptions(n_best=hearing.n_best),
                device=device,
                progress=advance,
                recognizer=hearing.opened(device, advance) if listens else None,
            )
        )
    with agent:
        yield agent


def _typed_lines(prompting: bool) -> Iterator[str]:
    """Lines from stdin until an empty one, or the end of it; somebody at a terminal is told how to go on."""
    if prompting:
        err.print("Type a question and press Enter; an empty line or Ctrl-D ends the conversation.", style="dim")
    while True:
        if prompting:
            err.print("[bold]you:[/bold] ", end="")
        line = sys.stdin.readline()
        if prompting and not line:
            err.print()  # Ctrl-D leaves the cursor behind the prompt
        if not line.strip():
            return
        yield line.strip()


def _home() -> Path:
    from platformdirs import user_data_path

    home = Path(os.environ.get("VIVAVOCE_HOME") or user_data_path("vivavoce")).expanduser()
    _make_writable_folder(home, "conversations", "set VIVAVOCE_HOME to")
    return home


def _stem(question: Audio | str, name: str) -> str:
    if isinstance(question, Audio):
        return Path(name).stem
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()[:6]) or "answer"


def _make_writable_folder(path: Path, contents: str, fix: str) -> None:
    """Make a folder, and check that it can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"Cannot write {contents} into {path} ({error.strerror}): {fix} a folder that you can write to",
            stage="config",
        ) from error
