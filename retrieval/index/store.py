"""Passages and their vectors as one thing: in memory, or in a folder that is never half-written.

::

    INDEX/
      manifest.json                which generation is valid, and which embedder made it; replaced atomically
      vivavoce-index.lock          locked by the one who writes
      generation-3f2a91c07b5e/
        passages.sqlite            documents, passages, keyword index (FTS5), what is committed of the vectors; WAL
        vectors.f32                float32 rows, only ever appended to
        codes.npz                  from 20,000 vectors on: codes of them (`FastScan`), which can be made again; the
                                   database has their checksum

A change appends its vectors, then commits to the database, which says how many vectors count: killed at any point, the
change is there or it is not, and what it left behind the last vector that counts is cut off by the next one. There is
one writer at a time, across processes; readers are not disturbed by it, and see each change as a whole, at their next
search. Writing everything anew (`Store.write`) makes a new generation, swaps the manifest, and removes the old one.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..embedding.loading import Device
from ..errors import IndexCorrupt, StoreError
from ..query.filters import Where
from .fastscan import FastScan
from .folder import (
    CODES,
    GENERATION_FILES,
    LOCK,
    MANIFEST,
    PASSAGES,
    VECTORS,
    Manifest,
    check_replaceable,
    clear_errors,
    damaged_index,
    file_signature,
    is_ours,
    missing_file,
    only_writer,
    read_manifest,
    rebuild_hint,
    swap_manifest,
    sweep_generations,
    sync_folder,
)
from .schema import SCHEMA
from .table import Cut, PassageTable
from .vectorlog import BLOCK, VectorLog
from .vectors import Precision, VectorIndex

logger = logging.getLogger(__name__)
_CACHE = 65_536  # KiB of the database in memory at most: 2 MiB, the default, are read again and again by a large change


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much there is.

    Attributes:
        documents: Documents.
        passages: Passages, each with a vector.
        removed: Vectors that belong to no passage any more; compacting takes them away.
        change: Number of the last change.
        bytes: On disk; 0 in memory.
    """

    documents: int
    passages: int
    removed: int
    change: int
    bytes: int


class Moved(Exception):
    """Another writer changed the documents in question meanwhile: look again."""


class Store:
    """Passages and vectors that belong together. Safe to use from several threads."""

    def __init__(self, table: PassageTable, index: VectorIndex) -> None:
        """Put an empty table and an empty index together; `in_memory` and `open` make stores."""
        self.table = table
        self.index = index
        # Writers take their turn, then the folder's lock, then the store's, always in this order: nobody who holds the
        # store's lock waits for another one, and readers go on while a writer waits.
        self._turn = threading.Lock()
        self._lock = threading.RLock()
        self._root: Path | None = None
        self._log: VectorLog | None = None
        self._seen: tuple[int, ...] = ()  # the manifest's inode, time and size
        self._change = table.change  # up to which the index is
        self._next = 0  # row
        self._kept = 0  # codes on disk
        self._writable = True
        self._device: Device = "auto"
        self.manifest: Manifest | None = None

    @classmethod
    def in_memory(cls, dim: int, device: Device = "auto") -> Self:
        """An empty store of its own."""
        return cls(PassageTable.in_memory(), VectorIndex(dim, device=device))

    @classmethod
    def open(cls, path: str | Path, device: Device = "auto", precision: Precision = "float32") -> Self:
        """Open an index folder, and check that all vectors are there and unchanged.

        Raises:
            IndexNotFound: If there is no index.
            IndexCorrupt: If a file is missing, truncated or changed; the message names it and how to build it again.
        """
        root = Path(path)
        seen = file_signature(root)
        manifest = read_manifest(root)
        while True:
            try:
                return cls._of_generation(root, manifest, seen, device, precision)
            except IndexCorrupt:
                seen, before = file_signature(root), manifest
                manifest = read_manifest(root)
                if manifest == before:  # else a writer replaced the generation between the two reads
                    raise

    @classmethod
    def _of_generation(
        cls, root: Path, manifest: Manifest, seen: tuple[int, ...], device: Device, precision: Precision
    ) -> Self:
        folder = root / manifest.generation
        table, writable = _open_table(root, folder / PASSAGES)
        try:
            store = cls(table, VectorIndex(manifest.dim, device=device, precision=precision))
            store._root, store.manifest, store._seen, store._device = root, manifest, seen, device
            store._log = VectorLog(folder / VECTORS, manifest.dim)
            store.index.exact = store._log.rows
            store._change, store._writable = -1, writable
            with store._readable(), table.reading():
                store._catch_up()
                checksum = table.codes_checksum
            store._take_codes(folder / CODES, checksum)
        except BaseException:
            table.close()
            raise
        return store

    def _take_codes(self, file: Path, checksum: str | None) -> None:
        """Use the codes that are kept, if they are as they were written; else make them again, as they can be."""
        if not file.exists():
            return
        codes = FastScan.load(file, checksum)
        if codes is not None:
            self._kept = len(codes)
            self.index.take(codes)
            return
        # Also where the writer was an earlier version, which kept no checksum. The next change keeps the new ones.
        logger.info("%s has not the checksum that it should have: its codes are made again", file)
        self.index.tune()

    # --- reading ------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Make everything that is read inside, from the table and the index, one state: the newest that is committed.

        Raises:
            IndexCorrupt: If a file was damaged meanwhile.
        """
        with self._lock, self._readable():
            self._follow()
            with self.table.reading():
                self._catch_up()
                yield

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all documents, sorted."""
        with self.reading():
            return self.table.sources

    @property
    def center(self) -> NDArray[np.float32] | None:
        """See `PassageTable.center`."""
        with self.reading():
            return self.table.center

    def stats(self) -> StoreStats:
        """How much there is."""
        with self.reading():
            removed = self.table.vectors - len(self.table)
            size = 0
            if self._root is not None and self.manifest is not None:
                folder = self._root / self.manifest.generation
                size = sum(file.stat().st_size for file in folder.iterdir())
            return StoreStats(self.table.documents, len(self.table), removed, self.table.change, size)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if self._root is None or self.manifest is None:
                raise
            file = self._root / self.manifest.generation / PASSAGES
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{file} cannot be read now ({error}): try again.", retryable=True) from error
            raise damaged_index(file, error, self._root) from error

    def _follow(self) -> None:
        """Turn to the generation that is valid now, if there is another one."""
        if self._root is None:
            return
        seen = file_signature(self._root)
        if seen == self._seen or not seen:  # a folder that was taken away: what is open is still good
            return
        manifest = read_manifest(self._root)
        # Vectors of another embedder cannot be compared with ours: then what is open is still good.
        if manifest != self.manifest and (self.manifest is None or manifest.fingerprint == self.manifest.fingerprint):
            fresh = type(self).open(self._root, self._device, self.index.precision)
            self.table.close()
            self.table, self.index, self.manifest = fresh.table, fresh.index, fresh.manifest
            self._log, self._writable, self._kept = fresh._log, fresh._writable, fresh._kept
            self._change, self._next = fresh._change, fresh._next
        self._seen = seen

    def _catch_up(self) -> None:
        """Bring the vectors in memory to the state that the table is in."""
        change = self.table.change
        if change == self._change or self._log is None:
            return
        removed = self.table.removed(self._change)
        self.index.remove(removed)
        following, sums = self._next, self.table.sums(self._next)
        if following == 0:
            self.index.reserve(len(self.table))
        try:
            for vectors in self._log.blocks(sums):
                rows = np.arange(following, following + len(vectors))
                kept = ~np.isin(rows, removed)
                self.index.add(vectors[kept], rows[kept])
                following += len(vectors)
        except IndexCorrupt as error:
            self.index.remove(np.arange(self._next, following))
            raise IndexCorrupt(f"{error}: build the index again with {rebuild_hint(self._root)}.") from error
        if self.index.precision == "int8" and following:
            self._log.rows(np.array([following - 1]))  # from now on it is open: compacting takes the file away
        self._next = following
        self._change = change

    # --- changing -----------------------------------------------------------------------------------------------------

    def replace(
        self,
        removed: Sequence[str],
        cuts: Sequence[Cut] = (),
        fresh: Sequence[str] = (),
        vectors: NDArray[np.float32] | None = None,
        center: NDArray[np.float32] | None = None,
    ) -> None:
        """Take documents out and put documents in, all or nothing.

        Args:
            removed: Sources of documents to take out; those that are not there are passed over.
            cuts: Documents to put in; where one of that source is there, it is replaced.
            fresh: Ids of those chunks that get a new vector; the others keep the one they have.
            vectors: float32, shape (len(fresh), dim): theirs.
            center: The embedder's centre, if one was fitted just now.

        Raises:
            Moved: If a chunk has no vector to keep any more.
            LoadingError: If two documents have the same source.
            StoreError: If it cannot be written, or another process writes for too long. What was there is still there.
        """
        added = np.empty((0, self.index.dim), np.float32) if vectors is None else vectors
        self.index.check(added)
        with self._writing():
            with self.table.writing():
                sources = [cut.document.source for cut in cuts]
                there = self.table.keys(sources)
                first = self.table.vectors
                rows = {name: first + place for place, name in enumerate(fresh)}
                keeping = [chunk.id for cut in cuts for chunk in cut.chunks if chunk.id not in rows]
                if not there.keys() >= {*keeping}:
                    raise Moved
                kept = {name: there[name] for name in keeping}
                gone = self.table.remove([*removed, *sources], frozenset(kept.values()))
                self.table.insert(cuts, kept | rows)
                if len(added):
                    crc32 = 0 if self._log is None else self._log.append(first, added)
                    self.table.append_sum(first, len(added), crc32)
                if center is not None:
                    self.table.center = center
            self.index.remove(gone)
            if len(added):
                self.index.add(added, np.arange(first, first + len(added)))
            # Nobody else can have changed anything meanwhile: there is one writer.
            self._change, self._next = self.table.change, first + len(added)
            self._tune()

    def _tune(self) -> None:
        """Make codes of the vectors when there are many, and keep them: the next one to open the index has them."""
        new = self.index.tune()
        codes = self.index.quick
        # Those that are not kept have to be made again by everybody who opens the index.
        if self._log is not None and codes is not None and (new or len(codes) > 1.1 * self._kept):
            self.table.codes_checksum = codes.save(self._log.path.with_name(CODES))
            self._kept = len(codes)

    def remove(self, sources: Sequence[str] | None = None, where: Where | None = None) -> int:
        """See `LocalKnowledge.delete`."""
        if sources is None and where is None:
            raise ValueError("say which documents to take out: sources, where, or both.")
        with self.reading():
            found = self.table.sources if where is None else self.table.sources_where(where)
        named = found if sources is None else sorted(set(found) & set(sources))
        if named:
            self.replace(named)
        return len(named)

    def compact(self) -> None:
        """Write an index folder anew, without what was removed.

        Raises:
            StoreError: If it cannot be written. What was there is still there.
        """
        if self._root is None or self.manifest is None:
            raise StoreError("An index in memory has nothing to compact: save it into a folder.", stage="save")
        with self._writing():
            self._rewrite(self._root, self.manifest.embedder, self.manifest.fingerprint)
            self._follow()

    def write(self, path: str | Path, embedder: str, fingerprint: str) -> None:
        """Write everything into a folder: a new one, an empty one, or one that holds an index, which is replaced.

        Args:
            path: The folder.
            embedder: Name of the embedder that made the vectors.
            fingerprint: Its fingerprint.

        Raises:
            StoreError: If the folder holds something else, or cannot be written. An index that was there is still
                there.
        """
        root = Path(path)
        created = not root.exists()
        if not created and not root.is_dir():
            raise StoreError(f"{root} is a file: name a folder for the index.", stage="save")
        try:
            with clear_errors(root):
                root.mkdir(parents=True, exist_ok=True)
                check_replaceable(root)
                with self._turn, only_writer(root), self.reading():
                    try:
                        self._rewrite(root, embedder, fingerprint)
                    except BaseException:
                        if created:  # while it is held: whoever waits for it sees that it is gone, and makes another
                            _discard_lock(root)
                        raise
        finally:
            if created:
                with suppress(OSError):  # it is in use
                    root.rmdir()

    def _rewrite(self, root: Path, embedder: str, fingerprint: str) -> None:
        """Make a new generation and let the manifest name it; the caller is the only writer."""
        try:
            generation = root / f"generation-{secrets.token_hex(6)}"
            generation.mkdir()
            copy = sqlite3.connect(generation / PASSAGES, isolation_level=None)
            try:
                copy.execute("PRAGMA journal_mode = WAL")
                copy.executescript(SCHEMA)
                rows = self.table.copy_into(copy)
                log = VectorLog(generation / VECTORS, self.index.dim)
                for first in range(0, max(1, len(rows)), BLOCK):
                    vectors = self.index.vectors(rows[first : first + BLOCK])
                    crc32 = log.append(first, vectors)
                    if len(vectors):
                        copy.execute("INSERT INTO appended VALUES (?, ?, ?)", (first, len(vectors), crc32))
                if self.index.quick is not None:
                    renamed = np.full(int(rows[-1]) + 1 if len(rows) else 0, -1)
                    renamed[rows] = np.arange(len(rows))
                    checksum = self.index.quick.save(generation / CODES, renamed)
                    copy.execute("INSERT INTO codes VALUES (?)", (checksum,))
            finally:
                copy.close()
            sync_folder(generation / PASSAGES)
            sync_folder(generation)
            swap_manifest(root, Manifest(generation.name, embedder, fingerprint, self.index.dim))
        finally:
            sweep_generations(root)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only writer, of the newest state, which nobody reads meanwhile."""
        if self._root is None:
            with self._lock:
                yield
            return
        if not self._writable:
            raise StoreError(f"{self._root} cannot be written: copy the index to a folder of yours.", stage="save")
        with clear_errors(self._root), self._turn, only_writer(self._root), self._lock:
            sweep_generations(self._root)  # what a writer left that was killed while it made a new generation
            with self._readable():
                self._follow()
                with self.table.reading():
                    self._catch_up()
            yield

    # --- as a whole ---------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Look through everything, and say in sentences what is wrong; empty if nothing is."""
        with self._lock:
            found = self.table.problems()
            if self._root is None or self.manifest is None or self._log is None:
                return found
            folder = self._root / self.manifest.generation
            found = [f"{folder / PASSAGES}: {problem}" for problem in found]
            try:
                for _ in self._log.blocks(self.table.sums()):
                    pass
            except (IndexCorrupt, sqlite3.DatabaseError) as error:
                found.append(str(error))
            # Other generations are being written now, or were when their writer was killed: the next one sweeps them.
            known = (MANIFEST, self.manifest.generation)
            beside = (entry for entry in self._root.iterdir() if entry.name not in known and not is_ours(entry))
            strange = [*beside, *(file for file in folder.iterdir() if file.name not in GENERATION_FILES)]
            return found + [f"{entry} is no part of the index" for entry in sorted(strange)]

    def close(self) -> None:
        """Let go of the files. The store is of no use afterwards."""
        with self._lock:
            self.table.close()


def _discard_lock(root: Path) -> None:
    """Remove the lock of a folder that has nothing else."""
    if [entry.name for entry in root.iterdir()] == [LOCK]:
        with suppress(OSError):  # where a file that is open cannot be removed
            (root / LOCK).unlink()


def _open_table(root: Path, file: Path) -> tuple[PassageTable, bool]:
    """The database of a generation, and whether it can be written."""
    if not file.exists():
        raise IndexCorrupt(f"{file} is missing: build the index again with {rebuild_hint(root)}.")
    log = file.with_name(f"{file.name}-wal")
    aside: Path | None = None
    try:
        missing = 0 if log.exists() and log.stat().st_size else missing_file(file)
        if missing > 0:
            raise IndexCorrupt(
                f"{file} is truncated ({missing:,} bytes): build the index again with {rebuild_hint(root)}."
            )
        connection, writable = _connect(f"{file.absolute().as_uri()}?mode=rw"), True
        try:
            connection.execute("SELECT change FROM state").fetchone()
        except sqlite3.OperationalError:
            # WAL needs a place for its shared memory. Where nothing can be written, nobody else writes either.
            connection.close()
            writable = False
            if log.exists() and log.stat().st_size:
                # Changes that are committed may stand in the log only: read both where SQLite can bring them together.
                aside = Path(tempfile.mkdtemp(prefix="vivavoce-"))
                for one in (file, log):
                    shutil.copy(one, aside)
                connection = _connect((aside / file.name).as_uri())
            else:
                connection = _connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1")
            connection.execute("SELECT change FROM state").fetchone()
        connection.execute(f"PRAGMA cache_size = {-_CACHE}")
    except (OSError, sqlite3.Error) as error:
        raise damaged_index(file, error, root) from error
    table = PassageTable(connection)
    if aside is not None:
        weakref.finalize(table, shutil.rmtree, aside, ignore_errors=True)
    return table, writable


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
