"""How a turn looks in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vivavoce.retrieval import Passage
from vivavoce.speech.live.events import StreamEvent

from ..turn.events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded, Understood


class Screen:
    """Shows events, as tables or as JSON lines."""

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        """Show on a console, or as JSON on stdout."""
        self._console = console
        self._as_json = as_json

    def asked(self, name: str) -> None:
        """A new question begins."""
        if not self._as_json:
            self._console.rule(Text(name), align="left")

    def show(self, event: Event | StreamEvent, *, spoken_to: Path | None = None) -> None:
        """Show an event of a turn; a spoken answer is written to `spoken_to` first."""
        if isinstance(event, Saying | Speaking | StreamEvent):
            return
        if isinstance(event, Spoke):
            if spoken_to is None:
                return
            event = replace(event, path=event.audio.write(spoken_to))
        if self._as_json:
            sys.stdout.write(json.dumps(event.as_json(), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            self._console.print(_shown(event))


def hypotheses_table(line: Mapping[str, Any], title: str = "") -> Table | Text:
    """An N-best list as the JSON line holds it, with its posteriors."""
    if not line["hypotheses"]:
        return Text(f"{title}: nothing was heard: {line.get('reason', '')}".removeprefix(": "), style="yellow")
    table = _table("heard", "posterior", "log prob", title=title)
    for hypothesis in line["hypotheses"]:
        table.add_row(Text(hypothesis["text"]), f"{hypothesis['posterior']:.2f}", f"{hypothesis['log_prob']:.2f}")
    return table


def passages_table(passages: Iterable[Passage]) -> Table:
    """Passages with their sources."""
    table = _table("found", "source", "score")
    for passage in passages:
        table.add_row(Text(passage.text), Text(passage.source), f"{passage.score:.3f}")
    return table


def _shown(event: Event) -> Any:
    match event:
        case Heard():
            return hypotheses_table(event.as_json())
        case Understood(outcome):
            words = [outcome.intent, *(f"{slot}={value}" for slot, value in outcome.slots.items())]
            if outcome.ignored:
                words.append("ignored")
            if outcome.transcript is not None:
                words.append(f"heard as {outcome.transcript.text!r}")
            return Text.assemble(f"{outcome.skill}: ", " ".join(filter(None, words)), (f"  ({outcome.reason})", "dim"))
        case Decided(decision):
            does = "looks it up" if decision.retrieve else "answers at once"
            return Text.assemble(
                f"P(<RET>) = {decision.probability:.2f}", ("  → ", "dim"), does, (f"  ({decision.reason})", "dim")
            )
        case Retrieved(passages):
            return passages_table(passages) if passages else Text("found nothing", style="yellow")
        case Said(text, sources):
            cited = "".join(f" [{source}]" for source in sources)
            return Text.assemble((text, "bold green"), (cited, "cyan"))
        case Spoke(audio, path):
            return Text(f"spoken in {path} ({audio.seconds:.1f} s)", style="dim")
        case TurnEnded(timings=timings):
            return Text("  ".join(f"{_named(stage)} {value:.0f}" for stage, value in timings.items()), style="dim")
    return Text("")


def _named(stage: str) -> str:
    return stage.removesuffix("_ms").replace("_", " ") + (" ms" if stage.endswith("_ms") else "")


def _table(*columns: str, title: str = "") -> Table:
    table = Table(
        title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False, header_style="dim"
    )
    first, *numbers = columns
    table.add_column(first, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right" if column != "source" else "left", no_wrap=True)
    return table
