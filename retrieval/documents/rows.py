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

_TEXT_KEYS = ("text", "content", "body", "page_content")
_ID_KEYS = ("id", "_id")
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_CHARACTERS = 2**16
_LONGEST_CELL = 2**24  # characters; longer ones mean that a quote was not closed
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d+)?")  # 0123 is no number, nor is what a float cannot hold
_FIELD_LIMIT_LOCK = threading.Lock()  # of `csv.field_size_limit`
_INTEGERS = range(-(2**63), 2**63)  # that SQLite can compare


@dataclass(slots=True)
class _Row:
    """A row of a table or of JSON lines, before it becomes a document."""

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
            rows.append(_json_row(number, line))
        except ValueError as error:
            yield SkippedFile(f"{source}#{number}", f"line {number}: {error}")
    yield from _documents(rows, source)


def _documents(rows: Sequence[_Row], source: str) -> Iterator[Document]:
    ids = [row.id for row in rows]
    unique_ids = all(ids) and len(set(ids)) == len(ids)
    title = re.sub(r"[-_\s]+", " ", PurePosixPath(source).stem).strip()
    for row in rows:
        name = f"{source}#{row.id if unique_ids else row.number}"
        yield Document(name, row.text, "text", row.title or title[:1].upper() + title[1:], row.metadata)


def _json_row(number: int, line: str) -> _Row:
    """Parse a line of JSON into a row; a ValueError says in half a sentence what is wrong with it."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
        line.encode("utf-8")
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a character in UTF-16, which is no text") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError(f"not an object but a {type(record).__name__}")
    key = next((key for key in _TEXT_KEYS if isinstance(record.get(key), str) and record[key].strip()), None)
    if key is None:
        raise ValueError(f"no text under {', '.join(map(repr, _TEXT_KEYS))}")
    text = record.pop(key).replace("\r\n", "\n").replace("\r", "\n")
    title = record.pop("title") if isinstance(record.get("title"), str) else ""
    name = next(
        (key for key in _ID_KEYS if isinstance(record.get(key), str | int) and record[key] not in ("", True, False)), ""
    )
    nested = record.pop("metadata") if isinstance(record.get("metadata"), dict) else {}
    metadata = {str(key): _sql_comparable(value) for key, value in {**nested, **record}.items()}
    return _Row(number, text, " ".join(title.split()), str(record.get(name, "")) if name else "", metadata)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant}, which is no JSON")


def _sql_comparable(value: Any) -> Any:
    """A JSON value in which integers beyond 64 bits, which SQLite cannot compare, are texts."""
    if isinstance(value, list):
        return [_sql_comparable(item) for item in value]
    return str(value) if isinstance(value, int) and value not in _INTEGERS else value


def _read_table(data: bytes, source: str, delimiters: Sequence[str]) -> Iterator[Document | SkippedFile]:
    text = decoded(data)
    separator = re.match(r"sep=(.)\r?\n", text)  # a line that Excel writes, and does not show
    if separator:
        text, delimiters = text[separator.end() :], (separator[1],)
    rows = _cells(text, _delimiter(text, delimiters))
    header = next((number for number, cells in rows.items() if isinstance(cells, list)), None)
    names = _names(rows.pop(header)) if header is not None else []
    readable: dict[int, list[str]] = {}
    for number, cells in rows.items():
        if isinstance(cells, list) and any(cells[len(names) :]):
            cells = f"{len(cells)} cells, but {len(names)} columns have a name"
        if isinstance(cells, str):
            yield SkippedFile(f"{source}#{number}", f"row {number}: {cells}")
        else:
            readable[number] = cells[: len(names)] + [""] * (len(names) - len(cells))
    if not readable:
        raise Unreadable("no row below the header")
    yield from _documents(_table_rows(names, readable), source)


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
    with _FIELD_LIMIT_LOCK:
        before = csv.field_size_limit(_LONGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _delimiter(text: str, delimiters: Sequence[str]) -> str:
    """The delimiter that the text seems to use; the first candidate where none is found."""
    try:
        lines = text[:_SNIFFED_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n")
        return csv.Sniffer().sniff(lines, "".join(delimiters)).delimiter
    except csv.Error:
        return delimiters[0]


def _names(header: list[str] | str) -> list[str]:
    """Names of the columns, each once."""
    cells = [" ".join(cell.split()) for cell in header]
    if not any(re.search(r"[^\W\d_]", cell) for cell in cells):
        raise Unreadable(f"no header: the first row ({', '.join(cells)[:60]}) must name the columns")
    names: list[str] = []
    for column, cell in enumerate(cells, start=1):
        name = cell or f"column {column}"
        names.append(name if name not in names else f"{name} ({column})")
    return names


def _table_rows(names: Sequence[str], readable: Mapping[int, list[str]]) -> list[_Row]:
    converters = [_column_type(column) for column in zip(*readable.values(), strict=True)]
    rows = []
    for number, cells in readable.items():
        values = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        lower = {name.lower(): name for name in values}
        text = "\n".join(f"{name}: {cell}" for name, cell in values.items()).replace("\r\n", "\n").replace("\r", "\n")
        title = " ".join(values.get(lower.get("title", ""), "").split())
        identity = next((values[lower[key]] for key in _ID_KEYS if key in lower), "")
        metadata = {
            name: convert(values[name])
            for name, convert in zip(names, converters, strict=True)
            if name in values and name.lower() not in (*_TEXT_KEYS, "title")
        }
        rows.append(_Row(number, text, title, identity, metadata))
    return rows


def _column_type(column: Sequence[str]) -> Callable[[str], Any]:
    """Converter of a column's cells: to numbers or booleans where every cell that is not empty is one, else to text."""
    cells = [cell for cell in column if cell]
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells):
        return float if any("." in cell for cell in cells) else int
    if cells and all(cell.lower() in ("true", "false") for cell in cells):
        return lambda cell: cell.lower() == "true"
    return str
