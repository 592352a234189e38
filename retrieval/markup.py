"""Writes Markdown: what web pages and Word files are turned into before they are cut.

Only what would change the structure is escaped, so that sentences stay as they are read out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BREAK = "\u2028"
"""Stands for a line break that is meant, where line feeds are mere blanks."""

# What would make of a line of prose a heading, quote, list, rule, fence, definition of a link, or HTML.
_BLOCK_MARK = re.compile(r"^(?=#{1,6}(?: |$)|>|[-+*](?: |$)|[-=*_](?:[ -=*_])*$|```|~~~|\[[^\]]+\]:|<[a-zA-Z/!?])")
_NUMBER_MARK = re.compile(r"^(\d{1,9})(?=[.)](?: |$))")


def one_line(text: str) -> str:
    """The words of a text with single blanks between them."""
    return " ".join(text.split())


def paragraph(text: str) -> str:
    """A paragraph; line breaks are kept where ``BREAK`` stands."""
    lines = (one_line(line) for line in text.split(BREAK))
    return "\n".join(
        _NUMBER_MARK.sub(r"\1\\", _BLOCK_MARK.sub(r"\\", line, count=1), count=1) for line in lines if line
    )


def heading(level: int, text: str) -> str:
    """A heading of level 1 to 6, or nothing if it has no words."""
    words = re.sub(r"(#+)$", r"\\\1", one_line(text))
    return f"{'#' * min(max(level, 1), 6)} {words}" if words else ""


def fence(code: str, language: str = "") -> str:
    """A block of code, as it is."""
    code = code.strip("\n").rstrip()
    if not code.strip():
        return ""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def code_span(code: str) -> str:
    """Code inside a sentence."""
    code = one_line(code)
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", code)), default=0) + 1)
    pad = " " if code.startswith("`") or code.endswith("`") else ""
    return f"{ticks}{pad}{code}{pad}{ticks}" if code else ""


def quote(markdown: str) -> str:
    """Blocks as a quotation."""
    return "\n".join(f"> {line}".rstrip() for line in markdown.splitlines())


def item(marker: str, markdown: str) -> str:
    """Blocks as the item of a list; the marker is ``-`` or a number with a full stop."""
    indent = " " * (len(marker) + 1)
    lines = markdown.split("\n")
    return "\n".join([f"{marker} {lines[0]}", *(f"{indent}{line}" if line else "" for line in lines[1:])])


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its header; shorter rows are filled up, rows and columns without words left out."""
    cells = [[one_line(cell).replace("|", r"\|") for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    width = max(map(len, cells), default=0)
    cells = [row + [""] * (width - len(row)) for row in cells]
    used = [column for column in range(width) if any(row[column] for row in cells)]
    lines = ["| " + " | ".join(row[column] for column in used) + " |" for row in cells]
    if lines:
        lines.insert(1, "|" + " --- |" * len(used))
    return "\n".join(lines)


def joined(blocks: Sequence[str]) -> str:
    """Blocks one below the other; empty ones are left out."""
    return "\n\n".join(block for block in blocks if block)
