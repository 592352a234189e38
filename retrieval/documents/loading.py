"""From files to documents: a folder of them, or one."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..errors import LoadingError
from .document import Document, SkippedFile, Unreadable
from .pdf import read_pdf
from .plaintext import plain_text
from .rows import read_csv, read_jsonl, read_tsv
from .webpage import read_html
from .word import read_docx

logger = logging.getLogger(__name__)

Reader = Callable[[bytes, str], Iterable[Document | SkippedFile]]
"""Reads the bytes of a file, given its source; yields documents, and the parts that had to be left out.

Raises ``Unreadable`` if nothing of it can be used.
"""

LARGEST = 2**30
"""Files of more bytes than this are left out: all of a file is read into memory."""

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
"""YAML at the head of a Markdown file, between lines of dashes."""


@dataclass(frozen=True, slots=True)
class LoadedFolder:
    """What a folder held.

    Attributes:
        documents: What could be read, sorted by file; rows of a file in their order.
        skipped: Files and parts of files that were left out, sorted likewise. Hidden files are not listed.
    """

    documents: tuple[Document, ...]
    skipped: tuple[SkippedFile, ...]


def load_folder(
    path: str | Path,
    on_skip: Callable[[SkippedFile], None] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedFolder:
    """Read every file of a folder, and of the folders in it, whose ending is in ``FORMATS``.

    Hidden files and folders (those whose name starts with a dot) are passed over. Every other file that cannot be used
    is logged, handed to ``on_skip`` and listed in the result; so are rows and pages of a file that can be used.

    Args:
        path: The folder, or a single file.
        on_skip: Called with each file, row or page that is left out, as it is left out.
        progress: Called with files read so far and files in all.

    Returns:
        The documents, and what was left out.

    Raises:
        LoadingError: If there is no such folder, or no readable document in it.
    """
    root = Path(path)
    if root.is_file():
        files, folder = [root], root.parent
    elif root.is_dir():
        files, folder = _files(root), root
    else:
        problem = "is no folder" if root.exists() else "does not exist"
        raise LoadingError(f"{root} {problem}: give a folder that holds documents ({_supported_types()}).")

    documents: list[Document] = []
    skipped: list[SkippedFile] = []
    for done, file in enumerate(files, start=1):
        for item in _read(file, file.relative_to(folder).as_posix()):
            if isinstance(item, Document):
                documents.append(item)
                continue
            logger.warning("skipped %s: %s", item.source, item.reason)
            skipped.append(item)
            if on_skip:
                on_skip(item)
        if progress:
            progress(done, len(files))
    if documents:
        return LoadedFolder(tuple(documents), tuple(skipped))
    if root.is_file():
        raise LoadingError(f"{root} cannot be used: {skipped[0].reason}.")
    left_out = f" ({len(skipped)} other files were skipped)" if skipped else ""
    raise LoadingError(f"{root} holds no readable document{left_out}: put files of type {_supported_types()} into it.")


def load_file(path: str | Path, on_skip: Callable[[SkippedFile], None] | None = None) -> tuple[Document, ...]:
    """Read one file: one document, or one for each row of a table or of JSON lines.

    Args:
        path: The file; its name is the source.
        on_skip: Called with each row or page that is left out; each is logged besides.

    Raises:
        LoadingError: If there is no such file, or nothing in it can be read.
    """
    file = Path(path)
    if not file.is_file():
        problem = "is a folder: load_folder reads it" if file.is_dir() else "does not exist"
        raise LoadingError(f"{file} {problem}.")
    return load_folder(file, on_skip).documents


def _supported_types() -> str:
    return ", ".join(f"*{suffix}" for suffix in FORMATS)


def _files(root: Path) -> list[Path]:
    """All files below ``root`` that are not hidden, sorted by their path inside it."""
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files += (Path(folder, name) for name in names if not name.startswith("."))
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _read(file: Path, source: str) -> Iterable[Document | SkippedFile]:
    try:
        reader = FORMATS.get(file.suffix.lower())
        if reader is None:
            raise Unreadable(f"not one of {_supported_types()}")
        yield from reader(_bytes(file), source)
    except (Unreadable, ImportError) as reason:  # the latter: without the extra that reads its format
        yield SkippedFile(source, str(reason))


def _bytes(file: Path) -> bytes:
    if not (file.is_file() or file.is_symlink()):
        raise Unreadable("not a regular file")  # reading a named pipe would wait for ever
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise Unreadable(
                f"{size / 2**20:,.0f} MiB are more than the {LARGEST / 2**20:,.0f} that are read: split it"
            )
        return file.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error


def _read_markdown(data: bytes, source: str) -> Iterable[Document]:
    text = plain_text(data)
    yield Document(source, text, "markdown", metadata=front_matter(text))


def _read_text(data: bytes, source: str) -> Iterable[Document]:
    yield Document(source, plain_text(data), "text")


def front_matter(text: str) -> dict[str, Any]:
    """Metadata at the head of a Markdown text: what its YAML says in plain JSON, without the title.

    Dates are written as ISO 8601. What is no YAML, or no mapping, is no metadata.
    """
    match = FRONT_MATTER.match(text)
    if match is None or not match[1]:
        return {}
    import yaml

    try:
        parsed = yaml.safe_load(match[1])
        metadata = json.loads(json.dumps(parsed, default=_json_value, allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in metadata.items() if key != "title"} if isinstance(metadata, dict) else {}


def _json_value(value: Any) -> str:
    if isinstance(value, date):  # a moment is one too
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


FORMATS: Mapping[str, Reader] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".txt": _read_text,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
}
"""File name endings that are read, in lower case, and what reads them."""
