"""Passages in SQLite, and a whole index as one folder that is never half-written.

::

    INDEX/
      manifest.json                what is valid; replaced atomically, last
      generation-3f2a91c07b5e/     one complete write of the index; never changed afterwards
        passages.sqlite            documents, passages, keyword index (FTS5)
        vectors.npy                float32, shape (passages, dim)
        center.npy                 float32, shape (dim,): only for embedders that are centred

A write makes a new generation, then swaps the manifest, then removes the old generation. Killed at any point, it leaves
the old index as it was; what it left behind is removed by the next write. Readers that have the old one open keep it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chunking import Chunk
from .errors import IndexCorrupt, IndexNotFound, LoadingError, StoreError
from .filters import Where, condition, facts
from .keyword import content_terms, match_expression, terms
from .loading import Document
from .passages import Passage

FORMAT = "vivavoce-index"
VERSION = 2
_MANIFEST = "manifest.json"
_PASSAGES = "passages.sqlite"
_VECTORS = "vectors.npy"
_CENTER = "center.npy"

_SCHEMA = """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    sha256 TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE passages (  -- id is the row of its vector
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, document INTEGER NOT NULL REFERENCES documents (id),
    heading TEXT NOT NULL, text TEXT NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, body_start INTEGER NOT NULL
);
CREATE TABLE facts (  -- what can be filtered for
    key TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL REFERENCES documents (id),
    PRIMARY KEY (key, value, document)
) WITHOUT ROWID;
CREATE INDEX passages_of_document ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (
    title, heading, body, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
);
"""


class PassageTable:
    """Documents and passages in one SQLite database, with its keyword index. Passages are named by row, from 0.

    Reading from several threads at once is safe.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over a connection to a finished table; ``build`` and ``open`` make them."""
        self._connection = connection
        self._lock = threading.Lock()
        self._count = int(self._all("SELECT count(*) FROM passages")[0][0])
        self._closed = weakref.finalize(self, connection.close)

    @classmethod
    def build(cls, documents: Sequence[Document], chunks: Sequence[Chunk]) -> PassageTable:
        """Put documents and their chunks into a new table in memory; row ``i`` is ``chunks[i]``.

        Raises:
            LoadingError: If two documents have the same source, or metadata is not plain JSON.
        """
        titles = {chunk.source: chunk.title for chunk in chunks}
        numbers = {document.source: number for number, document in enumerate(documents)}
        if len(numbers) < len(documents):
            raise LoadingError("Two documents have the same source: give each its own.")
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        with connection:
            connection.executescript(_SCHEMA)
            connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
                (
                    (
                        number,
                        document.source,
                        titles.get(document.source, document.title),
                        hashlib.sha256(document.text.encode()).hexdigest(),
                        _json(document),
                    )
                    for number, document in enumerate(documents)
                ),
            )
            connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        row,
                        chunk.id,
                        numbers[chunk.source],
                        chunk.heading,
                        chunk.text,
                        chunk.start,
                        chunk.end,
                        chunk.body_start,
                    )
                    for row, chunk in enumerate(chunks)
                ),
            )
            connection.executemany(
                "INSERT INTO words (rowid, title, heading, body) VALUES (?, ?, ?, ?)",
                ((row, chunk.title, chunk.heading, chunk.body) for row, chunk in enumerate(chunks)),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO facts (key, value, document) VALUES (?, ?, ?)",
                (
                    (*fact, number)
                    for number, document in enumerate(documents)
                    for fact in facts(document.metadata, document.source, titles.get(document.source, document.title))
                ),
            )
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        return cls(connection)

    @classmethod
    def open(cls, path: Path) -> PassageTable:
        """Open a table that was written with ``write``; it is never changed."""
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        return cls(sqlite3.connect(uri, uri=True, check_same_thread=False))

    def __len__(self) -> int:
        return self._count

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all documents, sorted."""
        return tuple(source for (source,) in self._all("SELECT source FROM documents ORDER BY source"))

    def where(self, where: Where) -> NDArray[np.int64]:
        """Rows of the passages whose document a filter holds for, ascending.

        Raises:
            ValueError: If the filter is malformed.
        """
        sql, values = condition(where)
        found = self._all(f"SELECT id FROM passages WHERE {sql} ORDER BY id", values)
        return np.fromiter((row for (row,) in found), np.int64, len(found))

    def values(self, key: str) -> tuple[Any, ...]:
        """All values that a key of the metadata has, sorted; numbers before texts."""
        return tuple(
            value for (value,) in self._all("SELECT DISTINCT value FROM facts WHERE key = ? ORDER BY value", (key,))
        )

    def grouping(self, least: int) -> str | None:
        """See `LocalKnowledge.names`."""
        found = self._all(
            "SELECT key, count(DISTINCT value) AS values_ FROM facts WHERE typeof(value) = 'text' GROUP BY key "
            "HAVING values_ BETWEEN ? AND ? ORDER BY values_ DESC, key = 'source', key LIMIT 1",
            (least, len(self) // 2),
        )
        return str(found[0][0]) if found else None

    def ordinary(self, key: str, share: float, sample: int) -> frozenset[str]:
        """See `LocalKnowledge.ordinary`."""
        holding: dict[str, set[Any]] = {}
        told = self._all(
            "SELECT f.value, d.title || ' ' || p.text FROM passages AS p JOIN documents AS d ON d.id = p.document "
            "JOIN facts AS f ON f.document = p.document AND f.key = ? ORDER BY p.id * 2654435761 % 4294967296 LIMIT ?",
            (key, sample),
        )
        for value, text in told:
            for term in set(terms(text)):
                holding.setdefault(term, set()).add(value)
        least = max(2.0, share * len({value for value, _ in told}))
        return frozenset(term for term, values in holding.items() if len(values) >= least)

    def keyword(
        self,
        query: str,
        k: int,
        column_weights: tuple[float, float, float],
        where: Where | None = None,
        others: Sequence[NDArray[np.int64]] = (),
    ) -> dict[int, float]:
        """Find rows by the words of a query.

        Args:
            query: Any text; a row is found if it holds any of the content terms.
            k: How many at most.
            column_weights: What a word counts in the title, in the headings and in the body.
            where: Only passages whose document this holds for.
            others: Rows among which as many are looked for besides.

        Returns:
            Coverage of each row, best first: its BM25 score as a share of what a passage would get that repeats every
            term for ever, in [0, 1). Unlike BM25 itself it does not grow with the length of the query, and terms that
            stand nowhere (misheard, perhaps) count as rare ones that are missing.
        """
        asked = content_terms(query)
        if not asked:
            return {}
        searches: list[tuple[str, list[Any]]] = [("", [])]
        if where is not None:
            sql, values = condition(where)
            searches = [(f" AND rowid IN (SELECT id FROM passages WHERE {sql})", values)]
        searches += [(" AND rowid IN (SELECT value FROM json_each(?))", [json.dumps(rows.tolist())]) for rows in others]
        found = [
            line
            for only, values in searches
            for line in self._all(
                "SELECT rowid, bm25(words, ?, ?, ?) AS cost FROM words "
                f"WHERE words MATCH ?{only} ORDER BY cost, rowid LIMIT ?",
                (*column_weights, match_expression(asked), *values, k),
            )
        ]
        limit = sum(map(self._most, asked)) if found else 1.0
        return {row: -cost / limit for row, cost in found}

    def _most(self, term: str) -> float:
        """What one term adds to a BM25 score at most: ``idf · (k1 + 1)``, with FTS5's idf and its k1 of 1.2."""
        (holding,) = self._all("SELECT count(*) FROM words WHERE words MATCH ?", (match_expression([term]),))[0]
        return 2.2 * max(math.log((self._count - holding + 0.5) / (holding + 0.5)), 1e-6)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages in these rows, in this order."""
        found = self._all(
            "SELECT p.id, p.key, p.text, d.source, p.heading, d.title, d.metadata, p.first, p.last, p.body_start "
            "FROM passages AS p JOIN documents AS d ON d.id = p.document "
            f"WHERE p.id IN ({', '.join('?' * len(rows))})",
            tuple(rows),
        )
        by_row = {
            row: Passage(
                key, text, source, 0.0, heading, title, json.loads(metadata), span=(first, last), body_start=body_start
            )
            for row, key, text, source, heading, title, metadata, first, last, body_start in found
        }
        return [by_row[row] for row in rows]

    def write(self, path: Path) -> None:
        """Copy the whole table into a new file."""
        copy = sqlite3.connect(path)
        try:
            with self._lock:
                self._connection.backup(copy)
        finally:
            copy.close()

    def close(self) -> None:
        """Let go of the file. The table is of no use afterwards."""
        self._closed()

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index folder says about itself.

    Attributes:
        generation: Name of the folder that holds its files.
        embedder: Name of the embedder that made the vectors.
        fingerprint: Fingerprint of that embedder.
        dim: Length of the vectors.
        documents: How many documents it holds.
        passages: How many passages, and so vectors.
        files: Size in bytes and SHA-256 (hex) of each file, by name.
    """

    generation: str
    embedder: str
    fingerprint: str
    dim: int
    documents: int
    passages: int
    files: Mapping[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index read from disk.

    Attributes:
        manifest: What the folder says about itself.
        table: Its passages; open, close it after use.
        vectors: float32, shape (passages, dim).
        center: float32, shape (dim,), or None if the embedder needs none.
    """

    manifest: Manifest
    table: PassageTable
    vectors: NDArray[np.float32]
    center: NDArray[np.float32] | None


def is_index(path: str | Path) -> bool:
    """Whether a folder says that it is an index (it may still be damaged)."""
    return (Path(path) / _MANIFEST).is_file()


def write_index(
    path: str | Path,
    table: PassageTable,
    vectors: NDArray[np.float32],
    *,
    embedder: str,
    fingerprint: str,
    center: NDArray[np.float32] | None = None,
) -> Manifest:
    """Write an index, or replace the one that is there. A second writer waits for the first.

    Args:
        path: Folder of the index: a new one, an empty one, or one that holds an index.
        table: The passages.
        vectors: float32, shape (len(table), dim).
        embedder: Name of the embedder that made them.
        fingerprint: Its fingerprint.
        center: float32, shape (dim,): its centre, if it has one.

    Returns:
        What was written.

    Raises:
        StoreError: If the folder holds something else, or cannot be written. An index that was there is still there.
    """
    root = Path(path)
    created = not root.exists()
    if not created and not root.is_dir():
        raise StoreError(f"{root} is a file: name a folder for the index.", stage="save")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _only_writer(root):
            entries = [entry.name for entry in root.iterdir()]
            if entries and not any(map(_is_ours, entries)):
                raise StoreError(f"{root} holds other files and no index: name a new or empty folder.", stage="save")
            try:
                generation = root / f"generation-{secrets.token_hex(6)}"
                generation.mkdir()
                table.write(generation / _PASSAGES)
                np.save(generation / _VECTORS, np.ascontiguousarray(vectors, np.float32), allow_pickle=False)
                if center is not None:
                    np.save(generation / _CENTER, np.ascontiguousarray(center, np.float32), allow_pickle=False)
                files = {file.name: _seal(file) for file in sorted(generation.iterdir())}
                counts = (vectors.shape[1], len(table.sources), len(table))
                manifest = Manifest(generation.name, embedder, fingerprint, *counts, files)
                _sync(generation)
                _swap_manifest(root, manifest)
            finally:
                _sweep(root)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"The index could not be written to {root} ({error}): make room or choose another folder.",
            stage="save",
            retryable=True,
        ) from error
    finally:
        if created and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
    return manifest


def read_index(path: str | Path) -> StoredIndex:
    """Open an index and check that all of it is there and unchanged.

    Args:
        path: Folder of the index.

    Returns:
        Its parts.

    Raises:
        IndexNotFound: If there is no index.
        IndexCorrupt: If a file is missing, truncated or changed; the message names it and how to build it again.
    """
    root = Path(path)
    while True:
        manifest = read_manifest(root)
        try:
            return _read_generation(root, manifest)
        except IndexCorrupt:
            # A writer may have replaced the generation between the two reads.
            if read_manifest(root).generation == manifest.generation:
                raise


def read_manifest(path: str | Path) -> Manifest:
    """Read what an index folder says about itself, without opening the index.

    Raises:
        IndexNotFound: If there is no index.
        IndexCorrupt: If the manifest is damaged or of another format.
    """
    root = Path(path)
    try:
        content = json.loads((root / _MANIFEST).read_bytes())
        checksum = content.pop("checksum")
    except FileNotFoundError as error:
        raise IndexNotFound(f"There is no index at {root}: build it with {_fix(root)}.") from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise IndexCorrupt(f"{root / _MANIFEST} is damaged: build the index again with {_fix(root)}.") from error
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise IndexCorrupt(
            f"{root / _MANIFEST} is of format {content.get('format')!r} {content.get('version')!r}, this version reads "
            f"{FORMAT!r} {VERSION}: build the index again with {_fix(root)}."
        )
    if checksum != _checksum(content):
        raise IndexCorrupt(f"{root / _MANIFEST} was changed: build the index again with {_fix(root)}.")
    files = {name: (size, sha256) for name, (size, sha256) in content["files"].items()}
    own = {name: content[name] for name in ("generation", "embedder", "fingerprint", "dim", "documents", "passages")}
    return Manifest(**own, files=files)


def _read_generation(root: Path, manifest: Manifest) -> StoredIndex:
    folder = root / manifest.generation
    for name, (size, sha256) in manifest.files.items():
        file = folder / name
        try:
            found = file.stat().st_size
            problem = "is truncated" if found < size else "was changed"
            if found == size and _sha256(file) == sha256:
                continue
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise IndexCorrupt(f"{file} {problem}: build the index again with {_fix(root)}.")
    try:
        vectors = np.load(folder / _VECTORS, allow_pickle=False)
        center = np.load(folder / _CENTER, allow_pickle=False) if _CENTER in manifest.files else None
        table = PassageTable.open(folder / _PASSAGES)
    except (OSError, sqlite3.Error) as error:
        raise IndexCorrupt(f"{folder} cannot be read ({error}): build the index again with {_fix(root)}.") from error
    return StoredIndex(manifest, table, vectors, center)


def _swap_manifest(root: Path, manifest: Manifest) -> None:
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    # The checksum covers what JSON gives back: there, tuples are lists.
    content = json.loads(json.dumps(content))
    content["checksum"] = _checksum(content)
    beside = root / f"{_MANIFEST}.new"
    beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    _sync(beside)
    os.replace(beside, root / _MANIFEST)
    _sync(root)


def _sweep(root: Path) -> None:
    """Remove what no manifest speaks of: the generation before, or one whose write did not end."""
    try:
        live = read_manifest(root).generation
    except IndexNotFound:
        live = None
    except IndexCorrupt:
        return  # better left for whoever wants to look into it
    (root / f"{_MANIFEST}.new").unlink(missing_ok=True)
    for entry in root.iterdir():
        if entry.name != live and entry.name.startswith("generation-"):
            shutil.rmtree(entry, ignore_errors=True)


def _is_ours(name: str) -> bool:
    return name.startswith(("generation-", f"{_MANIFEST}.new"))


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # let go of when the process ends, however it ends
        yield
    finally:
        os.close(handle)


def _seal(file: Path) -> tuple[int, str]:
    _sync(file)
    return file.stat().st_size, _sha256(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _json(document: Document) -> str:
    try:
        return json.dumps(dict(document.metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LoadingError(f"The metadata of {document.source} is not plain JSON ({error}).") from error


def _fix(root: Path) -> str:
    return f"`vivavoce index DIR --out {root}`"
