"""Documents and passages in SQLite, with the keyword index over them.

A passage is named by its row: the place of its vector, which never changes and is never given again. Every change has a
number; what was removed is remembered by it, so that whoever holds vectors in memory can catch up.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..documents.chunking import Chunk, words_digest
from ..documents.document import Document, Entry
from ..errors import LoadingError
from ..passages import Passage
from ..query.filters import Matching, Where, condition, facts, shadowed
from ..query.instructions import Facet
from ..query.keyword import content_terms, match_expression, terms
from ..query.sounds import SoundAlikes
from .schema import CODES_TABLE, SCHEMA

Scores = tuple[float, float | None, float | None]
"""Score, similarity and coverage of a passage."""

_to_json = json.JSONEncoder(allow_nan=False).encode  # made once: `json.dumps` makes one for each call
_MAX_COUNTED_TERMS = 10_000  # terms whose counts are kept

_JOIN = "FROM passages AS p JOIN documents AS d ON d.id = p.document"
_FIELDS = (
    f"p.id, p.key, p.text, d.source, p.heading, d.title, d.metadata, p.first, p.last, p.body_start, p.page {_JOIN}"
)
_DOCUMENTS = "SELECT id AS document, source, title, metadata FROM documents"
_INDEXED_TEXTS = f"SELECT p.id, d.title, p.heading, substr(p.text, p.body_start + 1) {_JOIN}"


@dataclass(frozen=True, slots=True)
class Cut:
    """A document with its chunks, ready to be stored; `of` makes one.

    Attributes:
        document: The document.
        chunks: Its chunks.
        metadata: The document's metadata, as JSON.
        digest: SHA-256 of all that its passages depend on; equal for an unchanged document.
    """

    document: Document
    chunks: tuple[Chunk, ...]
    metadata: str
    digest: str

    @classmethod
    def of(cls, document: Document, chunks: tuple[Chunk, ...], vectors: NDArray[np.float32] | None = None) -> Self:
        """Join a document and its chunks, and digest them.

        Args:
            document: The document.
            chunks: Its chunks.
            vectors: Vectors of its chunks, where the caller gives them.

        Raises:
            LoadingError: If the metadata is not plain JSON.
        """
        try:
            metadata = _to_json(dict(document.metadata))
        except (TypeError, ValueError) as error:
            raise LoadingError(f"The metadata of {document.source} is not plain JSON ({error}).") from error
        spans = " ".join(f"{chunk.id} {chunk.start} {chunk.end} {chunk.page}" for chunk in chunks)
        checksum = hashlib.sha256("\0".join((document.text, document.title, metadata, spans)).encode())
        if shadowed(document.metadata):
            checksum.update(b"\0metadata")  # earlier versions wrote other facts of it
        if vectors is not None:
            checksum.update(np.ascontiguousarray(vectors, np.float32).tobytes())
        return cls(document, chunks, metadata, checksum.hexdigest())

    @property
    def title(self) -> str:
        """The title that its passages carry."""
        return self.chunks[0].title if self.chunks else self.document.title


class PassageTable:
    """Documents and passages in one SQLite database, with its keyword index. Passages are named by row, from 0.

    Reading from several threads at once is safe; `reading` makes several reads one.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over a connection in autocommit mode to a database with `SCHEMA`."""
        self._connection = connection
        self._matching = Matching()
        connection.create_function("regexp", 2, self._matching, deterministic=True)
        self._lock = threading.RLock()
        self._depth = 0
        self._counts_at: tuple[int, dict[str, int]] = (-1, {})  # passages that hold a term, at a change
        self._sounds: tuple[int, SoundAlikes] | None = None  # of the words at a change
        self._closed = weakref.finalize(self, connection.close)

    @classmethod
    def in_memory(cls) -> PassageTable:
        """An empty table of its own."""
        connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        connection.executescript(SCHEMA)
        return cls(connection)

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM passages"))

    # --- transactions -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Make all reads inside see one state, whatever others commit meanwhile; may be nested."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1 and not self._connection.in_transaction:
                    self._connection.execute("BEGIN")
                    try:
                        yield
                    finally:
                        self._connection.execute("COMMIT")
                else:
                    yield
            finally:
                self._depth -= 1

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make all changes inside one, or none: an error takes them back. Each is numbered; see `change`."""
        with self._transaction():
            self._connection.execute("UPDATE state SET change = change + 1")
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite may have taken it back itself: a full disk
                    self._connection.execute("ROLLBACK")
                raise

    @property
    def change(self) -> int:
        """Number of the last change."""
        return int(self._one("SELECT change FROM state"))

    # --- properties and look-ups --------------------------------------------------------------------------------------

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all documents, sorted."""
        return tuple(source for (source,) in self._all("SELECT source FROM documents ORDER BY source"))

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return int(self._one("SELECT count(*) FROM documents"))

    @property
    def vectors(self) -> int:
        """How many vectors are committed, those of removed passages included: the next row."""
        return int(self._one("SELECT coalesce(max(first + count), 0) FROM appended"))

    @property
    def center(self) -> NDArray[np.float32] | None:
        """The embedder's centre, float32, shape (dim,), if one was fitted."""
        stored = self._one("SELECT center FROM state")
        return None if stored is None else np.frombuffer(stored, np.float32).copy()

    @center.setter
    def center(self, center: NDArray[np.float32]) -> None:
        stored = np.ascontiguousarray(center, np.float32).tobytes()
        self._connection.execute("UPDATE state SET center = ?", (stored,))

    @property
    def codes_checksum(self) -> str | None:
        """SHA-256 of the file that holds codes of the vectors; None if there is none, or none that is known."""
        if not self._one("SELECT count(*) FROM sqlite_master WHERE name = 'codes'"):
            return None
        lines = self._all("SELECT sha256 FROM codes")
        return str(lines[0][0]) if lines else None

    @codes_checksum.setter
    def codes_checksum(self, checksum: str) -> None:
        with self._transaction():
            self._connection.execute(CODES_TABLE)
            self._connection.execute("DELETE FROM codes")
            self._connection.execute("INSERT INTO codes VALUES (?)", (checksum,))

    def sums(self, first: int = 0) -> list[tuple[int, int, int]]:
        """First row, number of rows and CRC-32 of each append from this row on, in order."""
        return self._all("SELECT first, count, crc32 FROM appended WHERE first >= ? ORDER BY first", (first,))

    def removed(self, since: int = -1) -> NDArray[np.int64]:
        """Rows that were removed after this change, ascending."""
        return _rows(self._all("SELECT row FROM removed WHERE change > ? ORDER BY row", (since,)))

    def digests(self, sources: Sequence[str]) -> dict[str, str]:
        """Digest of each of these documents that is there, by source."""
        return dict(
            self._all(
                "SELECT source, digest FROM documents WHERE source IN (SELECT value FROM json_each(?))",
                (json.dumps(list(sources)),),
            )
        )

    def keys(self, sources: Sequence[str]) -> dict[str, int]:
        """Row of each passage of these documents, by its key."""
        return dict(
            self._all(
                f"SELECT p.key, p.id {_JOIN} WHERE d.source IN (SELECT value FROM json_each(?))",
                (json.dumps(list(sources)),),
            )
        )

    def where(self, where: Where) -> NDArray[np.int64]:
        """Rows of the passages whose document a filter holds for, ascending.

        Raises:
            ValueError: If the filter is malformed.
        """
        sql, values = condition(where)
        return _rows(self._all(f"SELECT id FROM passages WHERE {sql} ORDER BY id", values))

    def sources_where(self, where: Where) -> list[str]:
        """Sources of the documents that a filter holds for, sorted.

        Raises:
            ValueError: If the filter is malformed.
        """
        sql, values = condition(where)
        statement = f"SELECT source FROM ({_DOCUMENTS}) WHERE {sql} ORDER BY source"
        return [source for (source,) in self._all(statement, values)]

    def values(self, key: str) -> tuple[Any, ...]:
        """All values that a key of the metadata has, sorted; numbers before texts."""
        return tuple(
            value for (value,) in self._all("SELECT DISTINCT value FROM facts WHERE key = ? ORDER BY value", (key,))
        )

    def facets(self) -> list[Facet]:
        """All keys of the metadata, texts and numbers apart."""
        lines = self._all(
            "SELECT key, CASE typeof(value) WHEN 'text' THEN 'text' ELSE 'number' END AS kind, min(value), max(value), "
            "count(DISTINCT value) FROM facts GROUP BY key, kind ORDER BY key, kind"
        )
        return [Facet(*line) for line in lines]

    def grouping(self, least: int) -> str | None:
        """See `LocalKnowledge.names`."""
        lines = self._all(
            "SELECT key, count(DISTINCT value) AS values_ FROM facts WHERE typeof(value) = 'text' GROUP BY key "
            "HAVING values_ BETWEEN ? AND ? ORDER BY values_ DESC, key = 'source', key LIMIT 1",
            (least, len(self) // 2),
        )
        return str(lines[0][0]) if lines else None

    def ordinary(self, key: str, share: float, sample: int) -> frozenset[str]:
        """See `LocalKnowledge.ordinary`."""
        values_with: dict[str, set[Any]] = {}
        lines = self._all(
            f"SELECT f.value, d.title || ' ' || p.text {_JOIN} "
            "JOIN facts AS f ON f.document = p.document AND f.key = ? ORDER BY p.id * 2654435761 % 4294967296 LIMIT ?",
            (key, sample),
        )
        for value, text in lines:
            for term in set(terms(text)):
                values_with.setdefault(term, set()).add(value)
        least = max(2.0, share * len({value for value, _ in lines}))
        return frozenset(term for term, values in values_with.items() if len(values) >= least)

    # --- search -------------------------------------------------------------------------------------------------------

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
            others: Sets of rows, int64, that are each searched for k more.

        Returns:
            Coverage of each row, best first: its BM25 score as a share of what a passage would get that repeats every
            term for ever, in [0, 1). Unlike BM25 itself it does not grow with the length of the query, and terms that
            stand nowhere (misheard, perhaps) count as rare ones that are missing.
        """
        query_terms = content_terms(query)
        if not query_terms:
            return {}
        searches: list[tuple[str, list[Any]]] = [("", [])]
        if where is not None:
            sql, values = condition(where)
            searches = [(f" AND rowid IN (SELECT id FROM passages WHERE {sql})", values)]
        searches += [(" AND rowid IN (SELECT value FROM json_each(?))", [json.dumps(rows.tolist())]) for rows in others]
        with self.reading():
            count = len(self)
            passage_counts = self._passage_counts(query_terms)
            # A term that most passages hold adds nothing to a score, and makes all of them be scored.
            selective = [term for term in query_terms if 0 < 2 * passage_counts[term] <= count] or [
                t for t in query_terms if passage_counts[t]
            ]
            if not selective:
                return {}
            hits = [
                line
                for restriction, values in searches
                for line in self._all(
                    "SELECT rowid, bm25(words, ?, ?, ?) AS cost FROM words "
                    f"WHERE words MATCH ?{restriction} ORDER BY cost, rowid LIMIT ?",
                    (*column_weights, match_expression(selective), *values, k),
                )
            ]
        maximum = sum(_max_bm25(passage_counts[term], count) for term in query_terms)
        return {row: -cost / maximum for row, cost in hits}

    def sounding(self, query: str) -> str | None:
        """Correct a query by sound: words that no passage holds become the indexed words that sound most like them.

        Returns:
            The words of the query; None if there is nothing to replace, or nothing to replace it by.
        """
        query_terms = terms(query)
        with self.reading():
            unknown = {term for term, count in self._passage_counts(content_terms(query)).items() if not count}
            if not unknown:
                return None
            change = self.change
            if self._sounds is None or self._sounds[0] != change:
                words = (word for (word,) in self._each("SELECT word FROM vocabulary"))
                self._sounds = (change, SoundAlikes(words, self._sounds[1] if self._sounds else None))
            alikes = self._sounds[1]
        corrected = [
            (alikes.nearest(term, following) if term in unknown else None) or term
            for term, following in zip(query_terms, [*query_terms[1:], ""], strict=True)
        ]
        return " ".join(corrected) if corrected != query_terms else None

    def _passage_counts(self, terms_: Sequence[str]) -> dict[str, int]:
        """Document frequency of each term, in passages; cached, as the readings of a query share most terms."""
        change = self.change
        if self._counts_at[0] != change or len(self._counts_at[1]) > _MAX_COUNTED_TERMS:
            self._counts_at = (change, {})
        counts = self._counts_at[1]
        for term in terms_:
            if term not in counts:
                sql = "SELECT count(*) FROM words WHERE words MATCH ?"
                counts[term] = int(self._one(sql, (match_expression([term]),)))
        return {term: counts[term] for term in terms_}

    def passages(self, rows: Sequence[int], scores: Sequence[Scores]) -> tuple[Passage, ...]:
        """The passages in these rows, in this order, each with its scores."""
        lines = self._all(f"SELECT {_FIELDS} WHERE p.id IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),))
        by_row = {row: values for row, *values in lines}
        return tuple(_passage(by_row[row], row_scores) for row, row_scores in zip(rows, scores, strict=True))

    def get(self, sources: Sequence[str] | None, where: Where | None, limit: int | None, offset: int) -> list[Passage]:
        """Passages of these documents that a filter holds for, in the order of their rows.

        Raises:
            ValueError: If the filter is malformed.
        """
        selection, values = _selection(sources, where, limit, offset)
        lines = self._all(
            f"SELECT {_FIELDS} WHERE d.id IN (SELECT document FROM ({_DOCUMENTS}) WHERE {selection}) "
            "ORDER BY p.id LIMIT ? OFFSET ?",
            values,
        )
        return [_passage(fields) for _, *fields in lines]

    def entries(
        self, sources: Sequence[str] | None, where: Where | None, limit: int | None, offset: int
    ) -> list[Entry]:
        """Documents that a filter holds for, in the order they were put in.

        Raises:
            ValueError: If the filter is malformed.
        """
        selection, values = _selection(sources, where, limit, offset)
        lines = self._all(
            "SELECT source, title, metadata, (SELECT count(*) FROM passages AS p WHERE p.document = entry.document) "
            f"FROM ({_DOCUMENTS}) AS entry WHERE {selection} ORDER BY document LIMIT ? OFFSET ?",
            values,
        )
        return [Entry(source, title, json.loads(metadata), count) for source, title, metadata, count in lines]

    def rows(self, keys: Sequence[str]) -> list[int]:
        """Rows of passages, by their keys; those that are not there are left out."""
        row_by_key = dict(
            self._all(
                "SELECT key, id FROM passages WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),)
            )
        )
        return [row_by_key[key] for key in keys if key in row_by_key]

    # --- changing; inside `writing` -----------------------------------------------------------------------------------

    def append_sum(self, first: int, count: int, crc32: int) -> None:
        """Record an append of vectors as committed."""
        self._connection.execute("INSERT INTO appended VALUES (?, ?, ?)", (first, count, crc32))

    def insert(self, cuts: Sequence[Cut], rows: Mapping[str, int]) -> None:
        """Insert documents.

        Args:
            cuts: The documents and their chunks.
            rows: Where the vector of each chunk is, by the chunk's id.

        Raises:
            LoadingError: If a source is there already.
        """
        last = number = int(self._one("SELECT coalesce(max(id), 0) FROM documents"))
        documents, passages, document_facts = [], [], []
        vocabulary: set[str] = set()
        for cut in cuts:
            number += 1
            source, metadata = cut.document.source, cut.document.metadata
            documents.append((number, source, cut.title, cut.digest, cut.metadata))
            document_facts += [(*fact, number) for fact in facts(metadata, source, cut.title)]
            for chunk in cut.chunks:
                span = (chunk.start, chunk.end, chunk.body_start, chunk.page)
                passages.append((rows[chunk.id], chunk.id, number, chunk.heading, chunk.text, *span))
                vocabulary.update(terms(f"{chunk.title} {chunk.heading} {chunk.body}"))
        executemany = self._connection.executemany
        try:
            executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", documents)
            executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", passages)
        except sqlite3.IntegrityError as error:
            raise LoadingError("Two documents have the same source: give each its own.") from error
        # Read back from the database, as on deletion: SQLite has its own idea of what a text with zeros in it is.
        self._connection.execute(
            f"INSERT INTO words (rowid, title, heading, body) {_INDEXED_TEXTS} WHERE d.id > ?", (last,)
        )
        executemany("INSERT OR IGNORE INTO facts (key, value, document) VALUES (?, ?, ?)", document_facts)
        executemany("INSERT OR IGNORE INTO vocabulary VALUES (?)", ((word,) for word in sorted(vocabulary)))

    def remove(self, sources: Sequence[str], keep: frozenset[int] = frozenset()) -> NDArray[np.int64]:
        """Delete documents and their passages.

        Args:
            sources: Sources of the documents; unknown ones are ignored.
            keep: Rows whose vectors passages inserted in this change will use.

        Returns:
            Rows whose vectors no passage uses any more, ascending.
        """
        encoded = json.dumps(list(sources))
        execute = self._connection.execute
        # The keyword index is contentless: a deletion has to pass the indexed texts.
        execute(
            f"INSERT INTO words (words, rowid, title, heading, body) SELECT 'delete', * FROM ({_INDEXED_TEXTS} "
            "WHERE d.source IN (SELECT value FROM json_each(?)))",
            (encoded,),
        )
        ids = "SELECT id FROM documents WHERE source IN (SELECT value FROM json_each(?))"
        orphaned = {
            row for (row,) in self._all(f"SELECT id FROM passages WHERE document IN ({ids})", (encoded,))
        } - keep
        execute(f"DELETE FROM passages WHERE document IN ({ids})", (encoded,))
        execute(f"DELETE FROM facts WHERE document IN ({ids})", (encoded,))
        execute("DELETE FROM documents WHERE source IN (SELECT value FROM json_each(?))", (encoded,))
        unused = sorted(orphaned)
        self._connection.executemany("INSERT INTO removed SELECT ?, change FROM state", [(row,) for row in unused])
        return np.array(unused, np.int64)

    # --- as a whole ---------------------------------------------------------------------------------------------------

    def copy_into(self, connection: sqlite3.Connection) -> NDArray[np.int64]:
        """Copy all documents into an empty database; rows are renumbered from 0, without gaps.

        Returns:
            int64: the old row of each new one.
        """
        with self.reading():
            rows = _rows(self._all("SELECT id FROM passages ORDER BY id"))
            new_rows = {int(row): position for position, row in enumerate(rows)}
            connection.execute("BEGIN")
            for table, columns in (("documents", 5), ("facts", 3)):
                marks = ", ".join("?" * columns)
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", self._each(f"SELECT * FROM {table}"))
            connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((new_rows[row], *rest) for row, *rest in self._each("SELECT * FROM passages ORDER BY id")),
            )
            connection.execute("UPDATE state SET center = ?", (self._one("SELECT center FROM state"),))
            texts = self._each(f"SELECT d.title || ' ' || p.heading || ' ' || p.text {_JOIN}")
            vocabulary = {word for (text,) in texts for word in terms(text)}
            connection.executemany("INSERT INTO vocabulary VALUES (?)", ((word,) for word in sorted(vocabulary)))
        connection.execute(f"INSERT INTO words (rowid, title, heading, body) {_INDEXED_TEXTS} ORDER BY p.id")
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        connection.execute("COMMIT")
        return rows

    def problems(self) -> list[str]:
        """Verify the database; a sentence for each fault, none if it is sound."""
        try:
            with self._lock:
                faults = [str(line) for (line,) in self._all("PRAGMA integrity_check(5)") if line != "ok"]
                if not faults:
                    self._connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        except sqlite3.DatabaseError as error:
            return [str(error)]
        missing = self._one(
            "SELECT count(*) FROM passages AS p WHERE NOT EXISTS "
            "(SELECT 1 FROM appended AS a WHERE p.id BETWEEN a.first AND a.first + a.count - 1)"
        )
        if missing:
            faults.append(f"{missing} passages have no vector")
        for _, *fields in self._each(f"SELECT {_FIELDS}"):
            passage = _passage(fields)
            digest = words_digest(passage.title, passage.heading, passage.text[passage.body_start :])
            if not passage.id.startswith(f"{passage.source}#{digest}"):
                faults.append(f"passage {passage.id} is not as it was written")
        return faults

    def close(self) -> None:
        """Close the database. The table cannot be used afterwards."""
        with self._lock:
            self._closed()

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self._all(sql, values)[0][0]

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._matching.limited():
            return self._connection.execute(sql, values).fetchall()

    def _each(self, sql: str) -> Iterator[Any]:
        return iter(self._connection.execute(sql))


def _selection(
    sources: Sequence[str] | None, where: Where | None, limit: int | None, offset: int
) -> tuple[str, list[Any]]:
    """A condition on `_NAMED`, and its values with those of LIMIT and OFFSET behind them."""
    if offset < 0 or (limit is not None and limit < 0):
        raise ValueError("limit and offset must not be negative.")
    parts, values = ["true"], list[Any]()
    if sources is not None:
        parts.append("source IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(sources)))
    if where is not None:
        sql, parameters = condition(where)
        parts.append(sql)
        values += parameters
    return " AND ".join(parts), [*values, -1 if limit is None else limit, offset]


def _max_bm25(passages: int, count: int) -> float:
    """What one term adds to a BM25 score at most: ``idf · (k1 + 1)``, with FTS5's idf and its k1 of 1.2."""
    return 2.2 * max(math.log((count - passages + 0.5) / (passages + 0.5)), 1e-6)


def _passage(fields: Sequence[Any], scores: Scores = (0.0, None, None)) -> Passage:
    key, text, source, heading, title, metadata, first, last, body_start, page = fields
    score, similarity, coverage = scores
    span = (first, last)
    return Passage(
        key,
        text,
        source,
        score,
        heading,
        title,
        json.loads(metadata),
        similarity,
        coverage,
        span,
        body_start=body_start,
        page=page,
    )


def _rows(lines: Sequence[tuple[int]]) -> NDArray[np.int64]:
    return np.fromiter((row for (row,) in lines), np.int64, len(lines))
