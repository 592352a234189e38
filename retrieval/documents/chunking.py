"""From a document to passages that can be found: cut where the author cut.

Sections first, then paragraphs, lists, tables and code, then sentences; a cut inside a sentence is made only if the
sentence alone is too long. Every chunk is a verbatim slice of its document and knows the headings above it.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from posixpath import basename, splitext
from typing import TYPE_CHECKING, Literal

from .document import Document
from .loading import FRONT_MATTER

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Japanese and Chinese put no blanks between words: there, every character counts as one.
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s+[\"'“‘(\[*_]*[^\Wa-z])|[。！？]+[」』”]*")
_ABBREVIATIONS = frozenset("a.m. p.m. e.g. i.e. etc. approx. fig. no. vs. mr. mrs. ms. dr. prof. st. inc. ltd.".split())
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_PARAGRAPH = re.compile(r"\S.*(?:\n.*\S.*)*")
_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """How documents are cut.

    Attributes:
        max_words: Longest body of a chunk in words, the headings above it not counted. Fenced code is never cut and may
            be longer.
    """

    max_words: int = 120

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {self.max_words}; 60 to 200 suits most documents.")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document.

    Attributes:
        id: Stable name made of source and content: it changes only if this chunk's words or headings do.
        text: ``document.text[start:end]``; the headings that open its section are part of it.
        source: The document's source.
        title: Title of the page.
        heading: Headings above it, outermost first, joined by `` > ``, without the page's title.
        start: First character of the slice.
        end: Character after the last.
        body_start: How many characters of ``text`` the headings that open it take; 0 if it opens with none.
        page: Number of the page that it begins on, from 1; None if its document has no pages.
    """

    id: str
    text: str
    source: str
    title: str
    heading: str
    start: int
    end: int
    body_start: int
    page: int | None = None

    @property
    def body(self) -> str:
        """The text without the headings that open it."""
        return self.text[self.body_start :]

    @property
    def in_context(self) -> str:
        """The body below its title and headings: what an embedder should read."""
        breadcrumb = " > ".join(part for part in (self.title, self.heading) if part)
        return f"{breadcrumb}\n{self.body}" if breadcrumb else self.body


def chunk_document(document: Document, options: ChunkOptions | None = None) -> tuple[Chunk, ...]:
    """Cut a document into chunks, in the order of the text.

    Args:
        document: What to cut. Markdown is read as CommonMark with tables; front matter is left out, save its title.
        options: How long chunks may be.

    Returns:
        The chunks. Everything but blank lines, rules, front matter and headings without anything below them is in
        exactly one of them. Empty if nothing is left.
    """
    if document.format == "whole":
        name = f"{document.source}#{words_digest(document.title, '', document.text)}"
        return (Chunk(name, document.text, document.source, document.title, "", 0, len(document.text), 0),)
    limit = (options or ChunkOptions()).max_words
    page = _read_markdown(document) if document.format == "markdown" else _read_text(document)
    chunks: list[Chunk] = []
    seen: dict[str, int] = {}
    for section in page.sections:
        heading = " > ".join(section.path)
        for start, end in _pack(document.text, section.blocks, limit):
            first = start == section.blocks[0].start
            whole = section.start if first else start
            text = document.text[whole:end]
            digest = words_digest(page.title, heading, document.text[start:end])
            seen[digest] = seen.get(digest, 0) + 1
            again = f"-{seen[digest]}" if seen[digest] > 1 else ""
            name = f"{document.source}#{digest}{again}"
            number = bisect_right(document.pages, whole) or None
            chunks.append(Chunk(name, text, document.source, page.title, heading, whole, end, start - whole, number))
    return tuple(chunks)


def words_digest(title: str, heading: str, body: str) -> str:
    """What the id of a chunk says of its words."""
    return hashlib.sha256("\0".join((title, heading, body)).encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Block:
    """Part of a section that should stay whole, and where it may be cut if it is too long."""

    start: int
    end: int
    cuts: Literal["sentences", "items", "never"] = "sentences"
    items: list[int] = field(default_factory=list)  # where the second and later items start


@dataclass(slots=True)
class _Section:
    """What stands below one heading."""

    start: int  # where the headings that lead to it begin
    path: tuple[str, ...]
    blocks: list[_Block] = field(default_factory=list)


@dataclass(slots=True)
class _Page:
    title: str
    sections: list[_Section]


def _read_text(document: Document) -> _Page:
    path: list[tuple[int, str]] = []  # level and words of the headings above
    sections: list[_Section] = []
    opens_at: int | None = None  # where headings began that nothing stands below yet
    ends = [heading.start for heading in document.outline] + [len(document.text)]
    for heading, end in zip((None, *document.outline), ends, strict=True):
        if heading is not None:
            path = [*(above for above in path if above[0] < heading.level), (heading.level, heading.words)]
            opens_at = heading.start if opens_at is None else opens_at
        body = heading.end if heading else 0
        blocks = [_Block(*match.span()) for match in _PARAGRAPH.finditer(document.text, body, end)]
        if blocks:
            start = blocks[0].start if opens_at is None else opens_at
            sections.append(_Section(start, tuple(words for _, words in path), blocks))
            opens_at = None
    return _Page(document.title or _title_of(document.source), sections)


def _read_markdown(document: Document) -> _Page:
    text = document.text
    title = document.title
    front = FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    if front and not title and (named := _FRONT_TITLE.search(front.group())):
        title = named.group(1).strip("'\"")
    lines = [offset, *(match.end() for match in re.compile("\n").finditer(text, offset)), len(text) + 1]

    path: list[tuple[int, str]] = []  # level and words of the headings above
    sections: list[_Section] = []
    opens_at: int | None = None  # where headings began that nothing stands below yet
    tokens = _markdown().parse(text[offset:])
    only_one = sum(token.level == 0 and token.type == "heading_open" and token.tag == "h1" for token in tokens) == 1
    for place, token in enumerate(tokens):
        if token.level or token.map is None or token.type == "hr":
            continue
        start, end = _span(text, lines, token)
        if token.type == "heading_open":
            level, words = int(token.tag[1]), _plain(tokens[place + 1])
            if level == 1 and only_one and not path and title in ("", words):
                title = words  # the heading that names the page is no part of the path below it
            else:
                path = [*(above for above in path if above[0] < level), (level, words)]
            opens_at = start if opens_at is None else opens_at
            sections.append(_Section(opens_at, tuple(words for _, words in path)))
            continue
        if not sections:
            sections.append(_Section(start, ()))
        opens_at = None
        sections[-1].blocks.append(_block(text, lines, tokens, place, start, end))
    return _Page(title or _title_of(document.source), [section for section in sections if section.blocks])


@cache
def _markdown() -> MarkdownIt:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ImportError(
            "Cutting Markdown needs the package markdown-it-py: pip install 'vivavoce[documents]'"
        ) from error

    return MarkdownIt("commonmark").enable("table")


def _span(text: str, lines: list[int], token: Token) -> tuple[int, int]:
    """Characters of a block, without the blank lines that end it."""
    assert token.map is not None
    start, end = lines[token.map[0]], min(lines[token.map[1]], len(text))
    return start, start + len(text[start:end].rstrip())


def _block(text: str, lines: list[int], tokens: list[Token], place: int, start: int, end: int) -> _Block:
    token = tokens[place]
    if token.type in ("fence", "code_block"):
        return _Block(start, end, "never")
    row = {"table_open": "tr_open", "bullet_list_open": "list_item_open", "ordered_list_open": "list_item_open"}.get(
        token.type
    )
    if row is None:
        return _Block(start, end)
    items: list[int] = []
    for inner in tokens[place + 1 :]:
        if inner.level == 0:
            break
        if inner.type == row and inner.map is not None and inner.level <= 2:
            items.append(lines[inner.map[0]])
    # The first item opens the block. A table's first row is its header.
    return _Block(start, end, "items", [item for item in items[1:] if start < item < end])


def _plain(inline: Token) -> str:
    """The words of a heading without its markup."""
    children = inline.children or []
    return " ".join("".join(child.content or (" " if "break" in child.type else "") for child in children).split())


def _title_of(source: str) -> str:
    """``"docs/gift-cards.md"`` → ``"Gift cards"``."""
    words = re.sub(r"[-_\s]+", " ", splitext(basename(source))[0]).strip()
    return words[:1].upper() + words[1:]


def _pack(text: str, blocks: list[_Block], limit: int) -> Iterator[tuple[int, int]]:
    """Put as many neighbours as fit into one span."""
    start: int | None = None
    end = 0
    for block in blocks:
        pieces = [(block.start, block.end)]
        if block.cuts != "never" and not _fits(text, block.start, block.end, limit):
            pieces = list(_cut(text, block, limit))
        for piece_start, piece_end in pieces:
            if start is not None and not _fits(text, start, piece_end, limit):
                yield start, end
                start = None
            start = piece_start if start is None else start
            end = piece_end
    if start is not None:
        yield start, end


def _fits(text: str, start: int, end: int, limit: int) -> bool:
    return end - start <= limit or sum(1 for _ in _WORD.finditer(text, start, end)) <= limit


def _cut(text: str, block: _Block, limit: int) -> Iterator[tuple[int, int]]:
    """Items of a list or table, sentences of what is still too long, words of what is longer even so."""
    bounds = [block.start, *block.items, block.end] if block.cuts == "items" else [block.start, block.end]
    for start, end in pairwise(bounds):
        end = start + len(text[start:end].rstrip())
        if _fits(text, start, end, limit):
            yield start, end
            continue
        for sentence_start, sentence_end in sentence_spans(text, start, end):
            if _fits(text, sentence_start, sentence_end, limit):
                yield sentence_start, sentence_end
            else:
                words = [match.span() for match in _WORD.finditer(text, sentence_start, sentence_end)]
                for first in range(0, len(words), limit):
                    yield words[first][0], words[min(first + limit, len(words)) - 1][1]


def sentence_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the sentences of a stretch of a finished text begin and end, in characters.

    A text that is still being written is cut by ``speech``'s ``sentences``, which may not wait for what follows.
    """
    for match in _SENTENCE_END.finditer(text, start, end):
        last_word = text[max(start, match.end() - 24) : match.end()].split()[-1].lower().strip("\"'“”‘’()[]*_")
        if last_word in _ABBREVIATIONS or re.fullmatch(r"\w\.", last_word):
            continue
        yield start, match.end()
        blanks = _BLANKS.match(text, match.end(), end)
        start = blanks.end() if blanks else match.end()
    if start < end:
        yield start, end
