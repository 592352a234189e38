"""The record of everything said: the truth from which every other memory can be rebuilt."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from .errors import RecordBusy, RecordCorrupt, RecordError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS turns (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    turn_id TEXT NOT NULL UNIQUE,
    thread_id TEXT NOT NULL,
    heard TEXT NOT NULL,
    said TEXT NOT NULL,
    at REAL NOT NULL,
    details TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS turns_of_thread ON turns (thread_id, number);
"""
_VERSION = 1
_APPLICATION = 0x76697661  # "viva", in the header of the SQLite file


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished turn.

    Attributes:
        turn_id: Unique; a turn recorded twice is there once.
        thread_id: Which conversation.
        heard: What the user said, as it was understood.
        said: What the assistant answered.
        at: When the turn ended, seconds since the epoch.
        details: What else is worth keeping (hypotheses, decision, sources), plain JSON values.
    """

    turn_id: str
    thread_id: str
    heard: str
    said: str
    at: float
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Record(Protocol):
    """Where finished turns are kept."""

    def remember(self, episode: Episode) -> None:
        """Keep a turn; once this returns it survives a crash. A turn that is there already stays as it is."""
        ...

    def history(self, thread_id: str, last: int = 8) -> tuple[Episode, ...]:
        """The last turns of a conversation, oldest first; empty if there is no such conversation.

        Args:
            thread_id: Which conversation.
            last: How many turns at most.

        Raises:
            ValueError: If `last` is negative.
        """
        ...


class SQLiteRecord:
    """A record in one SQLite file, safe for several threads and processes.

    Every turn is committed, with the file synced, before ``remember`` returns: a power cut or ``kill -9`` loses the
    turn that was under way and none before it.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create a record.

        Args:
            path: The file; ``:memory:`` keeps nothing after this process. Missing folders are made.

        Raises:
            RecordCorrupt: If the file is something else, or damaged.
            RecordBusy: If another process has held the file for 10 s.
            RecordError: If it cannot be opened or written, or a newer release wrote it.
        """
        self.path = str(path)
        self._lock = threading.Lock()
        try:
            if self.path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, check_same_thread=False, timeout=10, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise RecordError(
                f"Cannot open the record of conversations at {path}: {error}. Name a file that can be written",
                stage="open",
            ) from error
        try:
            with self._translated("open"):
                self._prepare()
        except RecordError:
            self._connection.close()
            raise

    def remember(self, episode: Episode) -> None:
        """Keep a turn; see ``Record``.

        Raises:
            RecordBusy: If another process has held the file for 10 s.
            RecordError: If the turn holds what cannot be stored, the disk is full or read-only, or the record closed.
        """
        try:
            details = json.dumps(dict(episode.details), ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"The details of turn {episode.turn_id} are no JSON ({error}): keep plain values", stage="remember"
            ) from error
        row = (episode.turn_id, episode.thread_id, episode.heard, episode.said, episode.at, details)
        with self._lock, self._translated("remember"):
            # Not INSERT OR IGNORE, which would also pass over a turn that lacks something.
            self._connection.execute(
                "INSERT INTO turns (turn_id, thread_id, heard, said, at, details) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (turn_id) DO NOTHING",
                row,
            )

    def history(self, thread_id: str, last: int = 8) -> tuple[Episode, ...]:
        """The last turns of a conversation; see ``Record``.

        Raises:
            ValueError: If `last` is negative.
            RecordCorrupt: If the file is damaged.
        """
        if last < 0:
            raise ValueError(f"last must be 0 or more, not {last}")
        with self._lock, self._translated("recall"):
            rows = self._connection.execute(
                "SELECT turn_id, thread_id, heard, said, at, details FROM turns WHERE thread_id = ? "
                "ORDER BY number DESC LIMIT ?",
                (thread_id, last),
            ).fetchall()
            return tuple(
                Episode(turn, thread, heard, said, at, json.loads(details))
                for turn, thread, heard, said, at, details in reversed(rows)
            )

    def threads(self) -> tuple[str, ...]:
        """Every conversation, the one spoken in last first."""
        with self._lock, self._translated("recall"):
            rows = self._connection.execute(
                "SELECT thread_id FROM turns GROUP BY thread_id ORDER BY MAX(number) DESC"
            ).fetchall()
        return tuple(row[0] for row in rows)

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Refuse other programs' files, choose how commits reach the disk, and make the tables of a new file."""
        # In this order: whoever makes the tables at this moment commits them together with the mark.
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        mine = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if tables and mine != _APPLICATION:
            raise RecordCorrupt(
                f"{self.path} is a database of another program: name another file for the record", stage="open"
            )
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise RecordError(
                f"{self.path} was written by a newer vivavoce (format {version}, this one reads {_VERSION}): upgrade",
                stage="open",
            )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            # Another process opens the new file at this moment and makes the same switch; this one need not wait.
        # Every commit is synced: with NORMAL, a write-ahead log survives kill -9, but not a power cut.
        self._connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            marks = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
            self._connection.executescript(f"BEGIN IMMEDIATE; {marks}{_SCHEMA}COMMIT;")

    @contextmanager
    def _translated(self, stage: str) -> Iterator[None]:
        """SQLite's errors as this package's, each with the fix."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise RecordBusy(
                    f"{self.path} is being written by another process", stage=stage, retryable=True
                ) from error
            raise RecordError(f"{self.path}: {error}", stage=stage) from error
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, UnicodeEncodeError) as error:
            if "closed" in str(error):
                raise RecordError(f"{self.path} is closed ({error}): open the record again", stage=stage) from error
            raise RecordError(
                f"{self.path} cannot keep this turn ({error}): give every field of it its type, and text in Unicode",
                stage=stage,
            ) from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise RecordCorrupt(
                f"{self.path} is no record of conversations, or is damaged ({error}): move it away, or restore a copy",
                stage=stage,
            ) from error
