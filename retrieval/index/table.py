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

Found = tuple[float, float | None, float | None]
"""A passage's score, similarity and coverage."""

_written = json.JSONEncoder(allow_nan=False).encode  # made once: `json.dumps` makes one for each call
_COUNTED = 10_000  # terms whose counts are kept

_JOINED = "FROM passages AS p JOIN documents AS d ON d.id = p.document"
_FIELDS = (
    f"p.id, p.key, p.text, d.source, p.heading, d.title, d.metadata, p.first, p.last, p.body_start, p.page {_JOINED}"
)
_NAMED = "SELECT id AS document, source, title, metadata FROM documents"
_WORDS = f"SELECT p.id, d.title, p.heading, substr(p.text, p.body_start + 1) {_JOINED}"


@dataclass(frozen=True, slots=True)
class Cut:
    """A document and the chunks it was cut into; `of` makes them.

    Attributes:
        document: The document.
        chunks: Its chunks.
        metadata: The document's metadata, as JSON.
        digest: SHA-256 of all that its passages depend on: two cuts with the same one need not be told apart.
    """

    document: Document
    chunks: tuple[Chunk, ...]
    metadata: str
    digest: str

    @classmethod
    def of(cls, document: Document, chunks: tuple[Chunk, ...], vectors: NDArray[np.float32] | None = None) -> Self:
        """Look at a document that was cut.

        Args:
            document: The document.
            chunks: Its chunks.
            vectors: Those of its chunks, where the owner gives them.

        Raises:
            LoadingError: If the metadata is not plain JSON.
        """
        try:
            metadata = _written(dict(document.metadata))
        except (TypeError, ValueError) as error:
            raise LoadingError(f"The metadata of {document.source} is not plain JSON ({error}).") from error
        places = " ".join(f"{chunk.id} {chunk.start} {chunk.end} {chunk.page}" for chunk in chunks)
        told = hashlib.sha256("\0".join((document.text, document.title, metadata, places)).encode())
        if shadowed(document.metadata):
            told.update(b"\0metadata")  # earlier versions wrote other facts of it
        if vectors is not None:
            told.update(np.ascontiguousarray(vectors, np.float32).tobytes())
        return cls(document, chunks, metadata, told.hexdigest())

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
        self._counted: tuple[int, dict[str, int]] = (-1, {})  # passages that hold a term, at a change
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

    # --- what there is ------------------------------------------------------------------------------------------------

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
                f"SELECT p.key, p.id {_JOINED} WHERE d.source IN (SELECT value FROM json_each(?))",
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
        named = f"SELECT source FROM ({_NAMED}) WHERE {sql} ORDER BY source"
        return [source for (source,) in self._all(named, values)]

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
            f"SELECT f.value, d.title || ' ' || p.text {_JOINED} "
            "JOIN facts AS f ON f.document = p.document AND f.key = ? ORDER BY p.id * 2654435761 % 4294967296 LIMIT ?",
            (key, sample),
        )
        for value, text in told:
            for term in set(terms(text)):
                holding.setdefault(term, set()).add(value)
        least = max(2.0, share * len({value for value, _ in told}))
        return frozenset(term for term, values in holding.items() if len(values) >= least)

    # --- finding ------------------------------------------------------------------------------------------------------

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
        with self.reading():
            count = len(self)
            holding = self._holding(asked)
            # A term that most passages hold adds nothing to a score, and makes all of them be scored.
            telling = [term for term in asked if 0 < 2 * holding[term] <= count] or [t for t in asked if holding[t]]
            if not telling:
                return {}
            found = [
                line
                for only, values in searches
                for line in self._all(
                    "SELECT rowid, bm25(words, ?, ?, ?) AS cost FROM words "
                    f"WHERE words MATCH ?{only} ORDER BY cost, rowid LIMIT ?",
                    (*column_weights, match_expression(telling), *values, k),
                )
            ]
        limit = sum(_most(holding[term], count) for term in asked)
        return {row: -cost / limit for row, cost in found}

    def sounding(self, query: str) -> str | None:
        """A query in which words that stand nowhere are replaced by those here that sound most like them.

        Returns:
            The words of the query; None if there is nothing to replace, or nothing to replace it by.
        """
        heard = terms(query)
        with self.reading():
            unknown = {term for term, count in self._holding(content_terms(query)).items() if not count}
            if not unknown:
                return None
            change = self.change
            if self._sounds is None or self._sounds[0] != change:
                words = (word for (word,) in self._each("SELECT word FROM vocabulary"))
                self._sounds = (change, SoundAlikes(words, self._sounds[1] if self._sounds else None))
            alikes = self._sounds[1]
        meant = [
            (alikes.nearest(term, following) if term in unknown else None) or term
            for term, following in zip(heard, [*heard[1:], ""], strict=True)
        ]
        return " ".join(meant) if meant != heard else None

    def _holding(self, terms_: Sequence[str]) -> dict[str, int]:
        """How many passages hold each term; the readings of one question share most of them."""
        change = self.change
        if self._counted[0] != change or len(self._counted[1]) > _COUNTED:
            self._counted = (change, {})
        known = self._counted[1]
        for term in terms_:
            if term not in known:
                sql = "SELECT count(*) FROM words WHERE words MATCH ?"
                known[term] = int(self._one(sql, (match_expression([term]),)))
        return {term: known[term] for term in terms_}

    def passages(self, rows: Sequence[int], found: Sequence[Found]) -> tuple[Passage, ...]:
        """The passages in these rows, in this order, each with how it was found."""
        lines = self._all(f"SELECT {_FIELDS} WHERE p.id IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),))
        by_row = {row: values for row, *values in lines}
        return tuple(_passage(by_row[row], told) for row, told in zip(rows, found, strict=True))

    def get(self, sources: Sequence[str] | None, where: Where | None, limit: int | None, offset: int) -> list[Passage]:
        """Passages of these documents that a filter holds for, in the order of their rows.

        Raises:
            ValueError: If the filter is malformed.
        """
        chosen, values = _chosen(sources, where, limit, offset)
        found = self._all(
            f"SELECT {_FIELDS} WHERE d.id IN (SELECT document FROM ({_NAMED}) WHERE {chosen}) "
            "ORDER BY p.id LIMIT ? OFFSET ?",
            values,
        )
        return [_passage(fields) for _, *fields in found]

    def entries(
        self, sources: Sequence[str] | None, where: Where | None, limit: int | None, offset: int
    ) -> list[Entry]:
        """Documents that a filter holds for, in the order they were put in.

        Raises:
            ValueError: If the filter is malformed.
        """
        chosen, values = _chosen(sources, where, limit, offset)
        lines = self._all(
            "SELECT source, title, metadata, (SELECT count(*) FROM passages AS p WHERE p.document = named.document) "
            f"FROM ({_NAMED}) AS named WHERE {chosen} ORDER BY document LIMIT ? OFFSET ?",
            values,
        )
        return [Entry(source, title, json.loads(metadata), count) for source, title, metadata, count in lines]

    def rows(self, keys: Sequence[str]) -> list[int]:
        """Rows of passages, by their keys; those that are not there are left out."""
        named = dict(
            self._all(
                "SELECT key, id FROM passages WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),)
            )
        )
        return [named[key] for key in keys if key in named]

    # --- changing; inside `writing` -----------------------------------------------------------------------------------

    def append_sum(self, first: int, count: int, crc32: int) -> None:
        """Say that vectors are there."""
        self._connection.execute("INSERT INTO appended VALUES (?, ?, ?)", (first, count, crc32))

    def insert(self, cuts: Sequence[Cut], rows: Mapping[str, int]) -> None:
        """Add documents that are not there.

        Args:
            cuts: The documents and their chunks.
            rows: Where the vector of each chunk is, by the chunk's id.

        Raises:
            LoadingError: If a source is there already.
        """
        last = number = int(self._one("SELECT coalesce(max(id), 0) FROM documents"))
        documents, passages, told = [], [], []
        written: set[str] = set()
        for cut in cuts:
            number += 1
            source, metadata = cut.document.source, cut.document.metadata
            documents.append((number, source, cut.title, cut.digest, cut.metadata))
            told += [(*fact, number) for fact in facts(metadata, source, cut.title)]
            for chunk in cut.chunks:
                place = (chunk.start, chunk.end, chunk.body_start, chunk.page)
                passages.append((rows[chunk.id], chunk.id, number, chunk.heading, chunk.text, *place))
                written.update(terms(f"{chunk.title} {chunk.heading} {chunk.body}"))
        run = self._connection.executemany
        try:
            run("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", documents)
            run("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", passages)
        except sqlite3.IntegrityError as error:
            raise LoadingError("Two documents have the same source: give each its own.") from error
        # Told by the database, as when they are taken out: SQLite has its own idea of what a text with zeros in it is.
        self._connection.execute(f"INSERT INTO words (rowid, title, heading, body) {_WORDS} WHERE d.id > ?", (last,))
        run("INSERT OR IGNORE INTO facts (key, value, document) VALUES (?, ?, ?)", told)
        run("INSERT OR IGNORE INTO vocabulary VALUES (?)", ((word,) for word in sorted(written)))

    def remove(self, sources: Sequence[str], keep: frozenset[int] = frozenset()) -> NDArray[np.int64]:
        """Take documents out, with their passages.

        Args:
            sources: Of the documents; those that are not there are passed over.
            keep: Rows whose vectors will be taken by other passages in this change.

        Returns:
            Rows whose vectors belong to no passage now.
        """
        named = json.dumps(list(sources))
        run = self._connection.execute
        # The keyword index keeps no text of its own: it has to be told what it forgets.
        run(
            f"INSERT INTO words (words, rowid, title, heading, body) SELECT 'delete', * FROM ({_WORDS} "
            "WHERE d.source IN (SELECT value FROM json_each(?)))",
            (named,),
        )
        ids = "SELECT id FROM documents WHERE source IN (SELECT value FROM json_each(?))"
        gone = {row for (row,) in self._all(f"SELECT id FROM passages WHERE document IN ({ids})", (named,))} - keep
        run(f"DELETE FROM passages WHERE document IN ({ids})", (named,))
        run(f"DELETE FROM facts WHERE document IN ({ids})", (named,))
        run("DELETE FROM documents WHERE source IN (SELECT value FROM json_each(?))", (named,))
        lost = sorted(gone)
        self._connection.executemany("INSERT INTO removed SELECT ?, change FROM state", [(row,) for row in lost])
        return np.array(lost, np.int64)

    # --- as a whole ---------------------------------------------------------------------------------------------------

    def copy_into(self, connection: sqlite3.Connection) -> NDArray[np.int64]:
        """Fill an empty database with what is here, without what was removed: rows are counted anew from 0.

        Returns:
            Which row here each new row was.
        """
        with self.reading():
            rows = _rows(self._all("SELECT id FROM passages ORDER BY id"))
            new = {int(row): place for place, row in enumerate(rows)}
            connection.execute("BEGIN")
            for table, columns in (("documents", 5), ("facts", 3)):
                marks = ", ".join("?" * columns)
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", self._each(f"SELECT * FROM {table}"))
            connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((new[row], *rest) for row, *rest in self._each("SELECT * FROM passages ORDER BY id")),
            )
            connection.execute("UPDATE state SET center = ?", (self._one("SELECT center FROM state"),))
            texts = self._each(f"SELECT d.title || ' ' || p.heading || ' ' || p.text {_JOINED}")
            written = {word for (text,) in texts for word in terms(text)}
            connection.executemany("INSERT INTO vocabulary VALUES (?)", ((word,) for word in sorted(written)))
        connection.execute(f"INSERT INTO words (rowid, title, heading, body) {_WORDS} ORDER BY p.id")
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        connection.execute("COMMIT")
        return rows

    def problems(self) -> list[str]:
        """What is wrong with the database, in sentences; empty if nothing is."""
        try:
            with self._lock:
                found = [str(line) for (line,) in self._all("PRAGMA integrity_check(5)") if line != "ok"]
                if not found:
                    self._connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        except sqlite3.DatabaseError as error:
            return [str(error)]
        lost = self._one(
            "SELECT count(*) FROM passages AS p WHERE NOT EXISTS "
            "(SELECT 1 FROM appended AS a WHERE p.id BETWEEN a.first AND a.first + a.count - 1)"
        )
        if lost:
            found.append(f"{lost} passages have no vector")
        for _, *fields in self._each(f"SELECT {_FIELDS}"):
            passage = _passage(fields)
            digest = words_digest(passage.title, passage.heading, passage.text[passage.body_start :])
            if not passage.id.startswith(f"{passage.source}#{digest}"):
                found.append(f"passage {passage.id} is not as it was written")
        return found

    def close(self) -> None:
        """Let go of the database. The table is of no use afterwards."""
        with self._lock:
            self._closed()

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self._all(sql, values)[0][0]

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._matching.limited():
            return self._connection.execute(sql, values).fetchall()

    def _each(self, sql: str) -> Iterator[Any]:
        return iter(self._connection.execute(sql))


def _chosen(
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
        sql, given = condition(where)
        parts.append(sql)
        values += given
    return " AND ".join(parts), [*values, -1 if limit is None else limit, offset]


def _most(holding: int, count: int) -> float:
    """What one term adds to a BM25 score at most: ``idf · (k1 + 1)``, with FTS5's idf and its k1 of 1.2."""
    return 2.2 * max(math.log((count - holding + 0.5) / (holding + 0.5)), 1e-6)


def _passage(fields: Sequence[Any], found: Found = (0.0, None, None)) -> Passage:
    key, text, source, heading, title, metadata, first, last, body_start, page = fields
    score, similarity, coverage = found
    told, span = json.loads(metadata), (first, last)
    return Passage(
        key, text, source, score, heading, title, told, similarity, coverage, span, body_start=body_start, page=page
    )


def _rows(found: Sequence[tuple[int]]) -> NDArray[np.int64]:
    return np.fromiter((row for (row,) in found), np.int64, len(found))
