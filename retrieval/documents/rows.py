"""Tables in CSV and JSON lines: every row is a document of its own, so that it is found and filtered by itself."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from .document import Document, SkippedFile, Unreadable
from .plaintext import decoded

_TEXT = ("text", "content", "body", "page_content")
_ID = ("id", "_id")
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED = 2**16  # characters
_LONGEST_CELL = 2**24  # characters; longer ones mean that a quote was not closed
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d+)?")  # 0123 is no number, nor is what a float cannot hold
_LIMIT = threading.Lock()  # of `csv.field_size_limit`
_INTEGERS = range(-(2**63), 2**63)  # that SQLite can compare


@dataclass(slots=True)
class _Row:
    """A row that is going to be a document."""

    number: int
    text: str
    title: str = ""
    id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def read_csv(data: bytes, source: str) -> Iterator[Document | SkippedFile]:
    """Read a table whose first row names the columns. Commas, semicolons, tabs or bars separate cells.

    Yields:
        A document for each row, ``name: value`` in each line of it; its title is in the column ``title``. All cells but
        the title and long text are metadata too; columns that hold nothing but numbers, or true and false, as such. Its
        source is the file's name, ``#`` and the row's number as a spreadsheet counts them: the header is row 1. A
        column ``id`` takes the place of the number if its value is another one in each row. Rows that cannot be read
        are yielded as skipped.

    Raises:
        Unreadable: If it is no text, or has no header, or no row.
    """
    return _read_table(data, source, _DELIMITERS)


def read_tsv(data: bytes, source: str) -> Iterator[Document | SkippedFile]:
    """Read a table whose cells are separated by tabs; else as ``read_csv``."""
    return _read_table(data, source, ("\t",))


def read_jsonl(data: bytes, source: str) -> Iterator[Document | SkippedFile]:
    """Read JSON lines: one object in each.

    Yields:
        A document for each line. Its text is what the object has under ``text``, ``content``, ``body`` or
        ``page_content``, its title what it has under ``title``; everything else is metadata, an object under
        ``metadata`` entry by entry. Its source is the file's name, ``#`` and the number of the line, or the object's
        ``id`` if each has one and no two are the same. Lines that cannot be read are yielded as skipped.

    Raises:
        Unreadable: If it is no text.
    """
    rows: list[_Row] = []
    # Not splitlines: JSON may hold the other characters that it takes for ends of lines.
    for number, line in enumerate(decoded(data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_object(number, line))
        except ValueError as error:
            yield SkippedFile(f"{source}#{number}", f"line {number}: {error}")
    yield from _documents(rows, source)


def _documents(rows: Sequence[_Row], source: str) -> Iterator[Document]:
    ids = [row.id for row in rows]
    named = all(ids) and len(set(ids)) == len(ids)
    title = re.sub(r"[-_\s]+", " ", PurePosixPath(source).stem).strip()
    for row in rows:
        name = f"{source}#{row.id if named else row.number}"
        yield Document(name, row.text, "text", row.title or title[:1].upper() + title[1:], row.metadata)


def _object(number: int, line: str) -> _Row:
    """The row that a line of JSON stands for; a ValueError says in half a sentence why there is none."""
    try:
        told = json.loads(line, parse_constant=_no_number)
        line.encode("utf-8")
        json.dumps(told, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a character in UTF-16, which is no text") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(told, dict):
        raise ValueError(f"not an object but a {type(told).__name__}")
    key = next((key for key in _TEXT if isinstance(told.get(key), str) and told[key].strip()), None)
    if key is None:
        raise ValueError(f"no text under {', '.join(map(repr, _TEXT))}")
    text = told.pop(key).replace("\r\n", "\n").replace("\r", "\n")
    title = told.pop("title") if isinstance(told.get("title"), str) else ""
    name = next((key for key in _ID if isinstance(told.get(key), str | int) and told[key] not in ("", True, False)), "")
    nested = told.pop("metadata") if isinstance(told.get("metadata"), dict) else {}
    metadata = {str(key): _comparable(value) for key, value in {**nested, **told}.items()}
    return _Row(number, text, " ".join(title.split()), str(told.get(name, "")) if name else "", metadata)


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant}, which is no JSON")


def _comparable(value: Any) -> Any:
    """Integers that are too long to compare are written out."""
    if isinstance(value, list):
        return [_comparable(one) for one in value]
    return str(value) if isinstance(value, int) and value not in _INTEGERS else value


def _read_table(data: bytes, source: str, delimiters: Sequence[str]) -> Iterator[Document | SkippedFile]:
    text = decoded(data)
    told = re.match(r"sep=(.)\r?\n", text)  # a line that Excel writes, and does not show
    if told:
        text, delimiters = text[told.end() :], (told[1],)
    rows = _cells(text, _delimiter(text, delimiters))
    header = next((number for number, cells in rows.items() if isinstance(cells, list)), None)
    names = _names(rows.pop(header)) if header is not None else []
    read: dict[int, list[str]] = {}
    for number, cells in rows.items():
        if isinstance(cells, list) and any(cells[len(names) :]):
            cells = f"{len(cells)} cells, but {len(names)} columns have a name"
        if isinstance(cells, str):
            yield SkippedFile(f"{source}#{number}", f"row {number}: {cells}")
        else:
            read[number] = cells[: len(names)] + [""] * (len(names) - len(cells))
    if not read:
        raise Unreadable("no row below the header")
    yield from _documents(_table_rows(names, read), source)


def _cells(text: str, delimiter: str) -> dict[int, list[str] | str]:
    """Cells of each row by its number, or what is wrong with it, in half a sentence; blank rows are left out."""
    rows: dict[int, list[str] | str] = {}
    with _long_cells():
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for number in count(1):
            first = lines.line_num + 1
            try:
                cells = [cell.strip() for cell in next(lines)]
            except StopIteration:
                break
            except csv.Error as error:
                many = f"lines {first} to {lines.line_num} are lost, " if lines.line_num > first else ""
                rows[number] = f"{many}a quote is not closed, or not where its cell ends ({error})"
                continue
            if any(cells):
                rows[number] = cells
    return rows


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be long inside. The module csv has one limit for the whole process: one thread at a time changes it."""
    with _LIMIT:
        before = csv.field_size_limit(_LONGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _delimiter(text: str, delimiters: Sequence[str]) -> str:
    """What separates cells; the first of all where nothing does."""
    try:
        lines = text[:_SNIFFED].replace("\r\n", "\n").replace("\r", "\n")
        return csv.Sniffer().sniff(lines, "".join(delimiters)).delimiter
    except csv.Error:
        return delimiters[0]


def _names(header: list[str] | str) -> list[str]:
    """Names of the columns, each once."""
    cells = [" ".join(cell.split()) for cell in header]
    if not any(re.search(r"[^\W\d_]", cell) for cell in cells):
        raise Unreadable(f"no header: the first row ({', '.join(cells)[:60]}) must name the columns")
    names: list[str] = []
    for place, cell in enumerate(cells, start=1):
        name = cell or f"column {place}"
        names.append(name if name not in names else f"{name} ({place})")
    return names


def _table_rows(names: Sequence[str], read: Mapping[int, list[str]]) -> list[_Row]:
    typed = [_type(column) for column in zip(*read.values(), strict=True)]
    rows = []
    for number, cells in read.items():
        told = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        lower = {name.lower(): name for name in told}
        text = "\n".join(f"{name}: {cell}" for name, cell in told.items()).replace("\r\n", "\n").replace("\r", "\n")
        title = " ".join(told.get(lower.get("title", ""), "").split())
        identity = next((told[lower[key]] for key in _ID if key in lower), "")
        metadata = {
            name: kind(told[name])
            for name, kind in zip(names, typed, strict=True)
            if name in told and name.lower() not in (*_TEXT, "title")
        }
        rows.append(_Row(number, text, title, identity, metadata))
    return rows


def _type(column: Sequence[str]) -> Callable[[str], Any]:
    """What makes of a column's cells values that can be compared: texts, unless all but the empty ones are more."""
    cells = [cell for cell in column if cell]
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells):
        return float if any("." in cell for cell in cells) else int
    if cells and all(cell.lower() in ("true", "false") for cell in cells):
        return lambda cell: cell.lower() == "true"
    return str
