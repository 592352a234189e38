"""A knowledge base on this machine: meaning and keywords, fused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..documents.chunking import Chunk, ChunkOptions, chunk_document
from ..documents.document import Document, Entry, SkippedFile
from ..documents.loading import LoadedFolder, load_folder
from ..embedding.embedder import CenteringEmbedder, Embedder
from ..embedding.loading import Device
from ..errors import DimensionMismatch, EmbedderMismatch, LoadingError
from ..index.store import Moved, Store, StoreStats
from ..index.table import Cut
from ..index.vectors import Precision
from ..passages import Passage
from ..query.filters import Where
from ..query.instructions import Facet, read_instruction
from ..query.query import Query
from .channels import ChannelSearch
from .options import SearchOptions

Progress = Callable[[int, int], None]

_BATCH = 64  # passages embedded between two reports of progress
_COMMITTED = 512  # passages embedded between two commits: what is lost at most when long work is broken off


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update did, in documents.

    Attributes:
        added: New ones.
        updated: Ones that were there and differ.
        unchanged: Ones that were there already; nothing was done.
        removed: Ones that were taken out.
        embedded: How many passages got a new vector; passages that a changed document kept keep theirs.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0


class LocalKnowledge:
    """Documents of one's own, searched on this machine. Searching from several threads at once is safe.

    One that was opened from a folder sees what other processes change there, at the next search.
    """

    def __init__(self, store: Store, embedder: Embedder, options: SearchOptions | None = None) -> None:
        """Put ready parts together; ``from_folder``, ``from_documents``, ``create`` and ``open`` make them.

        Args:
            store: The passages and their vectors.
            embedder: What made the vectors.
            options: How to search.
        """
        self.options = options or SearchOptions()
        self.embedder = embedder
        self._store = store

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        embedder: Embedder,
        *,
        chunking: ChunkOptions | None = None,
        options: SearchOptions | None = None,
        device: Device = "auto",
        progress: Progress | None = None,
        on_skip: Callable[[SkippedFile], None] | None = None,
    ) -> Self:
        """Read, cut and embed every document of a folder, in memory.

        Args:
            path: The folder.
            embedder: What makes the vectors.
            chunking: How documents are cut.
            options: How to search.
            device: Where vectors are searched (see ``VectorIndex``).
            progress: Called with passages embedded so far and passages in all.
            on_skip: Called with each file that cannot be used.

        Raises:
            LoadingError: If there is no such folder, or nothing to read in it.
        """
        documents = load_folder(path, on_skip).documents
        return cls.from_documents(
            documents, embedder, chunking=chunking, options=options, device=device, progress=progress
        )

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        embedder: Embedder,
        *,
        chunking: ChunkOptions | None = None,
        options: SearchOptions | None = None,
        device: Device = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Cut and embed documents, wherever they come from, in memory; arguments as in ``from_folder``.

        Raises:
            LoadingError: If the documents hold no text, or two have the same source.
        """
        made = cls.empty(embedder, options=options, device=device)
        made.upsert(documents, chunking=chunking, progress=progress)
        if not len(made):
            raise LoadingError("The documents hold headings at most: give at least one with a sentence in it.")
        return made

    @classmethod
    def empty(cls, embedder: Embedder, *, options: SearchOptions | None = None, device: Device = "auto") -> Self:
        """One without documents, in memory: put them in with ``upsert``; arguments as in ``create``."""
        return cls(Store.in_memory(embedder.dim, device), embedder, options)

    @classmethod
    def create(
        cls, path: str | Path, embedder: Embedder, *, options: SearchOptions | None = None, device: Device = "auto"
    ) -> Self:
        """Make an empty index in a folder and open it: every later change is on disk when its call returns.

        Args:
            path: A new or an empty folder; an index that is there is replaced.
            embedder: What will make the vectors.
            options: How to search.
            device: Where vectors are searched (see ``VectorIndex``).

        Raises:
            StoreError: If the folder holds something else, or cannot be written.
        """
        empty = Store.in_memory(embedder.dim, "cpu")
        empty.write(path, embedder.name, embedder.fingerprint)
        empty.close()
        return cls.open(path, embedder, options=options, device=device)

    @classmethod
    def open(
        cls,
        path: str | Path,
        embedder: Embedder,
        *,
        options: SearchOptions | None = None,
        device: Device = "auto",
        precision: Precision = "float32",
    ) -> Self:
        """Open an index folder. All its vectors are checked.

        Args:
            path: Folder of the index.
            embedder: The embedder it was made with.
            options: How to search.
            device: Where vectors are searched (see ``VectorIndex``).
            precision: ``"int8"`` holds large indexes in a quarter of the memory; on disk they stay as they are.

        Raises:
            IndexNotFound: If there is none.
            IndexCorrupt: If a file of it is missing, truncated or changed.
            EmbedderMismatch: If it was made by another embedder.
        """
        store = Store.open(path, device, precision)
        made_by = store.manifest
        assert made_by is not None
        if made_by.fingerprint != embedder.fingerprint or made_by.dim != embedder.dim:
            store.close()
            raise EmbedderMismatch(
                f"The index at {path} was made by another embedder ({made_by.embedder!r}, {made_by.dim} dimensions, "
                f"fingerprint {made_by.fingerprint}) than this one ({embedder.name!r}, {embedder.dim} dimensions, "
                f"fingerprint {embedder.fingerprint}): open it with that one, or build it again with "
                f"`vivavoce index DIR --out {path}`."
            )
        return cls(store, _centred(embedder, store), options)

    def save(self, path: str | Path) -> None:
        """Write all of it into a folder, all or nothing; an index that is there already is replaced.

        Raises:
            StoreError: If the folder holds something else, or cannot be written.
        """
        self._store.write(path, self.embedder.name, self.embedder.fingerprint)

    def upsert(
        self,
        documents: Sequence[Document],
        *,
        vectors: NDArray[np.float32] | None = None,
        chunking: ChunkOptions | None = None,
        progress: Progress | None = None,
    ) -> Changes:
        """Put documents in; one whose source is there already is replaced, and nothing is done if it is the same.

        Broken off, it keeps what was done so far; the same call then goes on from there. With `vectors`, and with an
        embedder whose centre has to be fitted first, it is all or nothing.

        Args:
            documents: The documents.
            vectors: float32, shape (passages, dim), of unit length: the passages' vectors, if there are some already;
                for documents that are cut into one passage each, one a document.
            chunking: How documents are cut.
            progress: Called with passages embedded so far and passages to be embedded.

        Raises:
            LoadingError: If two documents have the same source, or metadata is not plain JSON.
            DimensionMismatch: If there are not as many vectors as passages, or they are not of the index's length.
            StoreError: If it cannot be written; what was there is still there.
        """
        if len({document.source for document in documents}) < len(documents):
            raise LoadingError("Two documents have the same source: give each its own.")
        chunks = [chunk_document(document, chunking) for document in documents]
        given = None if vectors is None else self._given(chunks, vectors)
        parts = itertools.repeat(None) if given is None else given
        cuts = [Cut.of(*one) for one in zip(documents, chunks, parts, strict=False)]
        while True:
            try:
                return self._upsert(cuts, given, progress)
            except Moved:  # another process replaced one of these documents just now
                continue

    def _given(self, chunks: Sequence[Sequence[Chunk]], vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The vectors of each document."""
        wanted = sum(map(len, chunks))
        if vectors.shape != (wanted, self.embedder.dim):
            raise DimensionMismatch(
                f"{len(chunks)} documents are cut into {wanted} passages: vectors must have shape "
                f"({wanted}, {self.embedder.dim}), not {vectors.shape}."
            )
        ends = itertools.accumulate(map(len, chunks))
        return [vectors[end - len(own) : end] for own, end in zip(chunks, ends, strict=True)]

    def _upsert(
        self,
        cuts: Sequence[Cut],
        given: Sequence[NDArray[np.float32]] | None,
        progress: Progress | None,
    ) -> Changes:
        with self._store.reading():
            there = self._store.table.digests([cut.document.source for cut in cuts])
            todo = [place for place, cut in enumerate(cuts) if there.get(cut.document.source) != cut.digest]
            keys = self._store.table.keys([cuts[place].document.source for place in todo]) if given is None else {}
        self.embedder = _centred(self.embedder, self._store)
        fresh = {place: [chunk for chunk in cuts[place].chunks if chunk.id not in keys] for place in todo}
        total = sum(map(len, fresh.values()))
        whole = given is not None or _uncentred(self.embedder) is not None
        done = 0
        for batch in _batches(todo, fresh, total + 1 if whole else _COMMITTED):
            chunks = [chunk for place in batch for chunk in fresh[place]]
            if given is not None:
                vectors = np.concatenate([given[place] for place in batch])
            else:
                vectors = self._embed([chunk.in_context for chunk in chunks], done, total, progress)
            self._store.replace(
                [],
                [cuts[place] for place in batch],
                [chunk.id for chunk in chunks],
                vectors,
                self.embedder.center if isinstance(self.embedder, CenteringEmbedder) else None,
            )
            done += len(chunks)
        new = sum(cuts[place].document.source not in there for place in todo)
        return Changes(new, len(todo) - new, len(cuts) - len(todo), 0, 0 if given is not None else total)

    def _embed(self, texts: Sequence[str], done: int, total: int, progress: Progress | None) -> NDArray[np.float32]:
        """Vectors of passages; a centre that has to be fitted is fitted to them."""
        uncentred = _uncentred(self.embedder)
        batches = [np.empty((0, self.embedder.dim), np.float32)]
        for first in range(0, len(texts), _BATCH):
            part = texts[first : first + _BATCH]
            batches.append(uncentred.pooled(part) if uncentred else self.embedder.embed(part))
            if progress:
                progress(done + first + len(part), total)
        vectors = np.concatenate(batches)
        if uncentred is None or not len(vectors):
            return vectors
        centred = uncentred.with_center(vectors.mean(axis=0))
        self.embedder = centred
        return centred.finish(vectors)

    def update_from_folder(
        self,
        path: str | Path,
        *,
        chunking: ChunkOptions | None = None,
        progress: Progress | None = None,
        on_skip: Callable[[SkippedFile], None] | None = None,
    ) -> Changes:
        """Make it hold exactly what a folder holds; see ``update``. Arguments as in ``from_folder``.

        Raises:
            LoadingError: If there is no such folder, or nothing to read in it; nothing is changed then.
            StoreError: If it cannot be written.
        """
        return self.update(load_folder(path, on_skip), chunking=chunking, progress=progress)

    def update(
        self, loaded: LoadedFolder, *, chunking: ChunkOptions | None = None, progress: Progress | None = None
    ) -> Changes:
        """Make it hold exactly what a folder held. Only what changed is embedded; what is not there any more goes.

        A file that was there but could not be read keeps what was known of it.

        Args:
            loaded: What ``load_folder`` gave.
            chunking: How documents are cut.
            progress: Called with passages embedded so far and passages to be embedded.

        Raises:
            StoreError: If it cannot be written.
        """
        kept = {document.source for document in loaded.documents} | {skipped.source for skipped in loaded.skipped}
        done = self.upsert(loaded.documents, chunking=chunking, progress=progress)
        gone = [source for source in self.sources if source not in kept]
        return replace(done, removed=self.delete(gone))

    def delete(self, sources: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        """Take documents out.

        Args:
            sources: Of the documents; those that are not there are passed over.
            where: Of these, or of all, only the documents that this holds for.

        Returns:
            How many were taken out.

        Raises:
            ValueError: If neither is given, or the filter is malformed.
            StoreError: If it cannot be written; what was there is still there.
        """
        return self._store.remove(sources, where)

    def get(
        self,
        sources: Sequence[str] | None = None,
        *,
        where: Where | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[Passage, ...]:
        """Passages by what is known of them, not by a question, in the order they were put in.

        Args:
            sources: Only of these documents.
            where: Only of documents that this holds for.
            limit: How many at most.
            offset: How many are passed over first.

        Raises:
            ValueError: If the filter is malformed, or a number is negative.
        """
        with self._store.reading():
            return tuple(self._store.table.get(sources, where, limit, offset))

    def entries(
        self,
        sources: Sequence[str] | None = None,
        *,
        where: Where | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[Entry, ...]:
        """What is known of documents, without their passages, in the order they were put in; arguments as in ``get``.

        Raises:
            ValueError: If the filter is malformed, or a number is negative.
        """
        with self._store.reading():
            return tuple(self._store.table.entries(sources, where, limit, offset))

    def vectors(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Vectors of passages: float32, shape (n, dim); passages that are not there any more are left out."""
        with self._store.reading():
            rows = self._store.table.rows([passage.id for passage in passages])
            return self._store.index.vectors(np.array(rows, np.int64))

    def stats(self) -> StoreStats:
        """How much it holds."""
        return self._store.stats()

    def compact(self) -> None:
        """Write the index folder anew, without what was removed; those who have it open go on with the new one.

        Raises:
            StoreError: If it lies in memory, or cannot be written.
        """
        self._store.compact()

    def problems(self) -> list[str]:
        """Look through all of an index, and say in sentences what is wrong with it; empty if nothing is."""
        return self._store.problems()

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        where: Where | None = None,
        instruction: str = "",
        options: SearchOptions | None = None,
    ) -> tuple[Passage, ...]:
        """Find passages for a question.

        Args:
            query: What was asked. Any text is allowed; one without words finds nothing.
            k: How many passages at most, at least 1.
            where: Only documents whose metadata this holds for, such as ``{"year": {"$gt": 2020}}``; see `Where`.
            instruction: The same in plain words, such as ``"only after 2020"``; see `read_instruction`.
            options: Search this once in another way.

        Returns:
            Up to ``k`` passages, best first. ``score`` is the weighted mean of ``similarity`` and ``coverage``, or the
            one that was looked for: below 1, and comparable between questions to one index. With ``fusion="rrf"`` it
            is the fused place in (0, 1], where 1 means first in every channel, however bad the best may be.

        Raises:
            ValueError: If ``k`` < 1, or the filter is malformed.
            InstructionNotUnderstood: If the instruction asks for what the metadata does not know.
        """
        return self.search_query(Query.of(query, where=where, instruction=instruction), k, options=options)

    def search_query(self, query: Query, k: int = 5, *, options: SearchOptions | None = None) -> tuple[Passage, ...]:
        """Find passages for a question of which several readings are possible, such as a recogniser's N-best list.

        Every distinct reading is searched, all in one batch, and counts by its weight. Filter, instruction and boosts
        are honoured; the history counts if a ``DialogueSearch`` is put around this.

        Args:
            query: What is asked.
            k: How many passages at most, at least 1.
            options: Search this once in another way.

        Returns:
            As ``search``. ``score`` is its mean over the readings, by weight, and what boosts add; ``similarity`` and
            ``coverage`` are those of the reading that fits best.

        Raises:
            ValueError: If ``k`` < 1, or a filter is malformed.
            InstructionNotUnderstood: If the instruction asks for what the metadata does not know.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        where = query.where
        if query.instruction.strip():
            where = _both(where, read_instruction(query.instruction, self))
        options = options or self.options
        readings = query.distinct()
        if not readings:
            return ()
        deep = len(options.channels) > 1 or len(readings) > 1 or query.boosts
        depth = max(options.depth, k) if deep else k
        vectors = None
        if "dense" in options.channels:
            # The centre is the store's: another process may have built the index anew.
            vectors = _centred(self.embedder, self._store).embed(list(readings), kind="query")
        with self._store.reading():
            boosts = [(self._store.table.where(_both(where, one)), extra) for one, extra in query.boosts]
            return ChannelSearch(self._store, options, depth, where, boosts).run(readings, vectors, k)

    def search_vector(
        self, vector: NDArray[np.float32], k: int = 5, *, where: Where | None = None
    ) -> tuple[Passage, ...]:
        """Find passages whose vectors are near one that is there already: meanings alone are compared.

        Args:
            vector: float32, shape (dim,), of unit length.
            k: How many passages at most, at least 1.
            where: Only documents whose metadata this holds for.

        Returns:
            As ``search``; ``score`` is the ``similarity``.

        Raises:
            ValueError: If ``k`` < 1, or the filter is malformed.
            DimensionMismatch: If the vector is of another length than the index's.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        with self._store.reading():
            among = None if where is None else self._store.table.where(where)
            hits = self._store.index.search(vector[None], k, among)
            scores = [(score, score, None) for score in hits.scores[0].tolist()]
            return self._store.table.passages(hits.rows[0].tolist(), scores)

    def names(self, least: int = 5) -> str | None:
        """The key of the metadata that says what a passage is about: of those that group passages, the finest.

        Args:
            least: How many values it must have.

        Returns:
            A key whose values are texts and far fewer than passages, such as `title` for pages of several passages;
            None if there is none.
        """
        with self._store.reading():
            return self._store.table.grouping(least)

    def ordinary(self, key: str, share: float = 0.05, sample: int = 20_000) -> frozenset[str]:
        """Words that passages about many different things hold, so that hearing one tells nothing about which is meant.

        Args:
            key: What passages are about.
            share: Of the values of `key` whose passages must hold a word.
            sample: How many passages are read.

        Returns:
            Words in lower case.
        """
        with self._store.reading():
            return self._store.table.ordinary(key, share, sample)

    def facets(self) -> tuple[Facet, ...]:
        """Keys of the documents' metadata, and between which values each lies."""
        with self._store.reading():
            return tuple(self._store.table.facets())

    def values(self, key: str) -> tuple[Any, ...]:
        """All values that a key of the documents' metadata has, sorted; `title` and `source` are keys too."""
        with self._store.reading():
            return self._store.table.values(key)

    def __len__(self) -> int:
        """How many passages it holds."""
        with self._store.reading():
            return len(self._store.index)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all documents, sorted."""
        return self._store.sources

    def close(self) -> None:
        """Let go of the files of an opened index. The knowledge base is of no use afterwards."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _both(where: Where | None, other: Where) -> Where:
    return other if where is None else {"$and": [where, other]}


def _uncentred(embedder: Embedder) -> CenteringEmbedder | None:
    """The embedder, if it needs a centre and has none."""
    return embedder if isinstance(embedder, CenteringEmbedder) and embedder.center is None else None


def _centred(embedder: Embedder, store: Store) -> Embedder:
    """The embedder with the centre that the store's vectors were made with."""
    # By name: every search comes here, and isinstance looks at each member of a protocol.
    if not hasattr(embedder, "with_center") or not isinstance(embedder, CenteringEmbedder):
        return embedder
    center = store.center
    return embedder if center is None else embedder.with_center(center)


def _batches(places: Sequence[int], sized: Mapping[int, Sequence[Any]], size: int) -> Iterator[list[int]]:
    """Cut into runs that hold about so many parts each."""
    batch: list[int] = []
    count = 0
    for place in places:
        batch.append(place)
        count += len(sized[place])
        if count >= size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch
