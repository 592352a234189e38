"""The options of the command line, in groups: a verb takes a whole group as one parameter.

A group is a frozen dataclass. Each field is an option, annotated as a parameter of a typer command is; `panel` heads
them in ``--help``; ``__post_init__`` refuses what does not go together. `grouped` makes a verb that takes groups one
that typer can call::

    @dataclass(frozen=True)
    class Searching:
        panel: ClassVar[str] = "Search"
        k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5
        where: Annotated[str, typer.Option(help="Filter, as JSON.")] = ""

    @grouped
    def search(index: Path, searching: Searching, *, as_json: Json = False) -> None: ...

A group that one verb needs lies beside the verb; here are those of several, and the options that stand alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import typer

from vivavoce.retrieval import Embedder
from vivavoce.speech import Recognizer

from ..evaluation.noise import Noise
from ..model.chat import Device
from ..weights import Progress

OUTPUT = "Output"
"""Heads the options that say where results go."""
RECOGNISER = "Recogniser"
"""Heads the options that say how recordings are heard."""

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object per line on stdout, nothing else.", rich_help_panel=OUTPUT)
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where models run; auto takes a GPU if there is one.")]
NBest = Annotated[int, typer.Option("--n-best", min=1, max=100, help="How many different hypotheses at most.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="The first N items only.")]
Rerank = Annotated[
    str, typer.Option("--rerank", help="Read the best ten again: likelihood, first, full, or a cross-encoder.")
]
Manifest = Annotated[Path, typer.Option("--manifest", help="NeMo manifest: one JSON object per line.")]
EngineOption = Annotated[
    str,
    typer.Option("--engine", help="What hears: ctranslate2, openai, transformers, ctc, or package.module:Class."),
]
LanguageOption = Annotated[
    str, typer.Option("--language", help="What is spoken, as a code such as en; auto lets the recogniser detect it.")
]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Make a verb that takes groups of options one that takes each option, as typer wants it.

    Args:
        verb: A function whose parameters are annotated for typer, or with a group.

    Returns:
        A function with the options in place of the groups, in the same order.

    Raises:
        ValueError: If two options have the same name.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(verb)
    def with_groups(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        verb(**values)

    shown: Any = with_groups
    shown.__signature__ = inspect.Signature(parameters, return_annotation=None)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """A parameter for each field of a group, under the group's heading."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, info = get_args(hints[field.name])
        info = copy(info)
        info.rich_help_panel = group.panel
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=Annotated[kind, info],
        )


@dataclass(frozen=True)
class Recognising:
    """Which recogniser hears, and where it runs."""

    panel: ClassVar[str] = RECOGNISER

    engine: EngineOption = "ctranslate2"
    model: Annotated[
        str | None,
        typer.Option("--model", "--asr-model", help="What the engine runs, a name or a folder; Whisper base, if none."),
    ] = None
    language: LanguageOption = "en"
    device: DeviceOption = "auto"

    def __post_init__(self) -> None:
        refuse_language_of_own(self.engine, self.language, type(self).language)

    def opened(self, progress: Progress) -> Recognizer:
        """Load the recogniser.

        Raises:
            ConfigError, ModelUnavailable, SpeechError: See `open_recognizer`.
        """
        from ..opening import open_recognizer

        return open_recognizer(
            self.engine, self.model, device=self.device, language=spoken(self.language), progress=progress
        )


@dataclass(frozen=True)
class Noisy:
    """Noise that is mixed under recordings."""

    panel: ClassVar[str] = "Noise"

    noise: Annotated[Path | None, typer.Option("--noise", help="A recording of noise, or a folder of them.")] = None
    snr: Annotated[float, typer.Option("--snr", help="dB by which speech is louder than --noise.")] = 10.0

    def __post_init__(self) -> None:
        if self.noise is None and self.snr != type(self).snr:
            raise typer.BadParameter("--snr goes with --noise: name a recording of noise, or a folder of them.")

    def read(self) -> Noise | None:
        """The noise, if there is to be any.

        Raises:
            AudioError, ConfigError: If it cannot be read.
        """
        return None if self.noise is None else Noise.read(self.noise, self.snr)


@dataclass(frozen=True)
class Embedding:
    """What makes the vectors that are compared."""

    panel: ClassVar[str] = "Embedding"

    embedder: Annotated[str, typer.Option(help="llm, or a sentence-transformers model: name or folder.")] = ""
    adapter: Annotated[Path | None, typer.Option(help="With --embedder llm: an adapter of your own.")] = None
    task: Annotated[str, typer.Option(help="With --embedder llm: knowledge, memory, tool or example.")] = ""

    def opened(self, device: Device, progress: Progress) -> Embedder:
        """Load what makes the vectors.

        Raises:
            ConfigError, ModelUnavailable, EmbeddingError: See `open_embedder`.
        """
        from ..opening import open_embedder

        return open_embedder(self.embedder, self.adapter, task=self.task, device=device, progress=progress)


@dataclass(frozen=True)
class Output:
    """How many items are measured, and where results go."""

    panel: ClassVar[str] = OUTPUT

    limit: Limit = None
    out: Annotated[Path | None, typer.Option("--out", help="File for one JSON line per item.")] = None
    as_json: Json = False


def spoken(language: str) -> str | None:
    """The language that a recogniser is given; None, which detects it, for "auto"."""
    return None if language == "auto" else language


def refuse_language_of_own(engine: str, language: str, default: str) -> None:
    """Refuse a language for a recogniser of one's own, which would not be told it.

    Raises:
        typer.BadParameter: If the engine is a class, and the language is not the default.
    """
    if ":" in engine and language != default:
        raise typer.BadParameter(f"{engine} knows its language itself: leave out --language.")


def read_filter(text: str) -> dict[str, Any] | None:
    """A filter over metadata out of JSON; None for an empty text.

    Raises:
        typer.BadParameter: If it is no JSON object.
    """
    if not text:
        return None
    try:
        where = json.loads(text)
        if not isinstance(where, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise typer.BadParameter(f"""--where is JSON such as '{{"year": {{"$gt": 2020}}}}' ({error}).""") from error
    return where
