"""What the verbs of the command line share: consoles, options, one line of JSON, a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Rerank = Annotated[
    str, typer.Option("--rerank", help="Read the best ten again: likelihood, first, full, or a cross-encoder.")
]
NBest = Annotated[int, typer.Option("--n-best", min=1, max=100, help="How many different hypotheses at most.")]


def device_name(name: str) -> Any:
    """The name of a device.

    Raises:
        typer.BadParameter: If there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"--device is auto, cpu or cuda, not {name!r}.")
    return name


def tell(values: dict[str, Any], as_json: bool, shown: Any = None) -> None:
    """One result: JSON on stdout, or what is `shown` to people (the JSON, indented, by default)."""
    if as_json:
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    shown = json.dumps(values, ensure_ascii=False, indent=1) if shown is None else shown
    out.print(shown, soft_wrap=isinstance(shown, str))  # a path is to be copied, so it is not broken


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr that appears when there is progress to show: call it with done, total, label."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,  # else it leaves an empty line in a log
    )
    tasks: dict[str, TaskID] = {}

    def advance(done: int, total: int, label: str) -> None:
        if label not in tasks:
            bar.start()
            tasks[label] = bar.add_task(label, total=total or None)
        bar.update(tasks[label], completed=done, total=total or None)

    try:
        yield advance
    finally:
        if tasks:
            bar.stop()


def spoken(language: str) -> str | None:
    """The language that a recogniser is given; None, which detects it, for "auto"."""
    return None if language == "auto" else language


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
