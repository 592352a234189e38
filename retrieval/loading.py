"""From a folder of files to documents."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from .errors import LoadingError

logger = logging.getLogger(__name__)

Format = Literal["markdown", "text"]

FORMATS: Mapping[str, Format] = {".md": "markdown", ".markdown": "markdown", ".txt": "text"}
"""File name endings that are read, in lower case, and what they hold."""

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
"""YAML at the head of a Markdown file, between lines of dashes."""


@dataclass(frozen=True, slots=True)
class Document:
    """One readable file, or any text that should be found.

    Attributes:
        source: Its name; for a file, the path inside its folder with forward slashes. Unique within an index.
        text: All of it, as ``Path.read_text("utf-8-sig")`` gives it: plain line feeds, no byte order mark.
        format: How its structure is read.
        title: Its title; empty means that it is taken from the text, or else from the source's name.
        metadata: What else its owner knows about it (plain JSON values); every passage of it carries a copy. For a
            Markdown file, its front matter.
    """

    source: str
    text: str
    format: Format = "markdown"
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out, and why.

    Attributes:
        source: Path inside the folder, with forward slashes.
        reason: Half a sentence, such as ``"not UTF-8 text"``.
    """

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedFolder:
    """What a folder held.

    Attributes:
        documents: The readable files, sorted by source.
        skipped: The files left out, sorted by source. Hidden files are not listed.
    """

    documents: tuple[Document, ...]
    skipped: tuple[SkippedFile, ...]


def load_folder(path: str | Path, on_skip: Callable[[SkippedFile], None] | None = None) -> LoadedFolder:
    """Read every Markdown and text file of a folder and of the folders in it.

    Hidden files and folders (those whose name starts with a dot) are passed over. Every other file that cannot be used
    is logged, handed to ``on_skip`` and listed in the result.

    Args:
        path: The folder.
        on_skip: Called with each file that is left out, as it is left out.

    Returns:
        The documents and the files left out.

    Raises:
        LoadingError: If there is no such folder, or no readable document in it.
    """
    root = Path(path)
    wanted = ", ".join(f"*{suffix}" for suffix in FORMATS)
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise LoadingError(f"{root} {problem}: give a folder that holds documents ({wanted}).")

    documents: list[Document] = []
    skipped: list[SkippedFile] = []
    for file in _files(root):
        source = file.relative_to(root).as_posix()
        try:
            documents.append(_read(file, source))
        except _Unusable as reason:
            skip = SkippedFile(source, str(reason))
            logger.warning("skipped %s: %s", source, skip.reason)
            skipped.append(skip)
            if on_skip:
                on_skip(skip)
    if not documents:
        left_out = f" ({len(skipped)} other files were skipped)" if skipped else ""
        raise LoadingError(f"{root} holds no readable document{left_out}: put files of type {wanted} into it.")
    return LoadedFolder(tuple(documents), tuple(skipped))


class _Unusable(Exception):
    """Why one file is left out."""


def _files(root: Path) -> list[Path]:
    """All files below ``root`` that are not hidden, sorted by their path inside it."""
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += (Path(folder, name) for name in names if not name.startswith("."))
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _read(file: Path, source: str) -> Document:
    kind = FORMATS.get(file.suffix.lower())
    if kind is None:
        raise _Unusable(f"not one of {', '.join(f'*{suffix}' for suffix in FORMATS)}")
    if not (file.is_file() or file.is_symlink()):
        raise _Unusable("not a regular file")  # reading a named pipe would wait for ever
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _Unusable(f"cannot be read ({error.strerror})") from error
    if b"\0" in data:
        raise _Unusable("binary, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unusable(f"not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise _Unusable("empty")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Document(source, text, kind, metadata=front_matter(text) if kind == "markdown" else {})


def front_matter(text: str) -> dict[str, Any]:
    """Metadata at the head of a Markdown text: what its YAML says in plain JSON, without the title.

    Dates are written as ISO 8601. What is no YAML, or no mapping, is no metadata.
    """
    found = FRONT_MATTER.match(text)
    if found is None or not found[1]:
        return {}
    import yaml

    try:
        told = yaml.safe_load(found[1])
        plain = json.loads(json.dumps(told, default=_written, allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in plain.items() if key != "title"} if isinstance(plain, dict) else {}


def _written(value: Any) -> str:
    if isinstance(value, date):  # a moment is one too
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")
