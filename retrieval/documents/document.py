"""What loading yields: documents, and what had to be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["markdown", "text", "whole"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading that the text itself does not mark as one, such as a bookmark of a PDF.

    Attributes:
        start: Where in the text its section begins.
        end: Character after its words; ``start`` if they do not stand there.
        level: 1 for the outermost.
        words: What it says.
    """

    start: int
    end: int
    level: int
    words: str


@dataclass(frozen=True, slots=True)
class Document:
    """One readable file, one row of a table, or any text that should be found.

    Attributes:
        source: Its name; for a file, the path inside its folder with forward slashes, and for a row of one, ``#`` and
            the row besides. Unique within an index.
        text: All of it. Of a Markdown or text file, as ``Path.read_text("utf-8-sig")`` gives it: plain line feeds, no
            byte order mark. Web pages and Word files are written as Markdown.
        format: How its structure is read. One in format ``"whole"`` has none: all of it is one passage, however long or
            short, with the title that it is given and no other.
        title: Its title; empty means that it is taken from the text, or else from the source's name.
        metadata: What else its owner knows about it (plain JSON values); every passage of it carries a copy. For a
            Markdown file, its front matter.
        pages: Where in the text each page begins, first page first; empty if it has no pages.
        outline: Headings of a document in format ``"text"``, in the order of the text.
    """

    source: str
    text: str
    format: Format = "markdown"
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    pages: tuple[int, ...] = ()
    outline: tuple[Heading, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of an index, without its passages.

    Attributes:
        source: Its name.
        title: Its title.
        metadata: Its owner's metadata.
        passages: How many passages it was cut into; 0 for one without words.
    """

    source: str
    title: str
    metadata: Mapping[str, Any] = field(hash=False)
    passages: int


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file, or a part of one, that was left out, and why.

    Attributes:
        source: Path inside the folder, with forward slashes; behind ``#`` the row or the page if the rest was read.
        reason: Half a sentence, such as ``"not UTF-8 text"``.
    """

    source: str
    reason: str


class Unreadable(Exception):
    """Why a file is left out; its message is the reason of a ``SkippedFile``."""
