"""What a benchmark returns, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """One benchmark's figures.

    Attributes:
        title: What was measured.
        command: How to get the figures again.
        rows: One mapping of column to value per line; all have the same columns.
        notes: What a reader must know to read them.
    """

    title: str
    command: str
    rows: Sequence[Mapping[str, object]]
    notes: str = ""

    def markdown(self) -> str:
        """The table as a section of BENCHMARKS.md."""
        columns = list(self.rows[0])
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.notes, ""]) if self.notes else "\n".join([*lines, ""])


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
