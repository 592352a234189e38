"""Where verbs write to: stdout and stderr, a result as JSON or for people, a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False)


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
