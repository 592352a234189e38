"""A knowledge base on this machine: meaning and keywords, fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from .chunking import Chunk, ChunkOptions, chunk_document
from .embedding import CenteringEmbedder, Embedder
from .errors import EmbedderMismatch, LoadingError
from .filters import Where
from .fusion import reciprocal_rank_fusion, weighted_sum
from .index import Device, VectorIndex
from .loading import Document, SkippedFile, load_folder
from .passages import Passage
from .store import PassageTable, read_index, write_index

Channel = Literal["dense", "keyword"]
Progress = Callable[[int, int], None]

_BATCH = 64  # passages embedded between two reports of progress


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search is made.

    Attributes:
        channels: Where to look: ``"dense"`` compares meanings, ``"keyword"`` words.
        fusion: ``"sum"`` of similarity and coverage, weighted, or ``"rrf"``: reciprocal rank fusion, which goes by
            place alone. On 874 spoken SQuAD questions with MiniLM, recall@1 was 0.95 typed and 0.85 misheard by the
            sum, 0.89 and 0.77 by ranks.
        dense_weight: What the dense channel counts, in (0, 1); the keyword channel counts the rest.
        title_weight: What a word in the title counts against one in the body, which counts 1.
        heading_weight: What a word in the headings counts.
        depth: How many passages each channel puts forward.
    """

    channels: tuple[Channel, ...] = ("dense", "keyword")
    fusion: Literal["sum", "rrf"] = "sum"
    dense_weight: float = 0.4
    title_weight: float = 2.0
    heading_weight: float = 1.5
    depth: int = 100

    def __post_init__(self) -> None:
        unknown = [channel for channel in self.channels if channel not in ("dense", "keyword")]
        if unknown or not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"channels must be one or both of 'dense' and 'keyword', got {self.channels!r}.")
        if self.fusion not in ("sum", "rrf"):
            raise ValueError(f"fusion must be 'sum' or 'rrf', got {self.fusion!r}.")
        if not 0 < self.dense_weight < 1:
            raise ValueError("dense_weight must lie between 0 and 1; to leave one channel out, name the other alone.")
        if min(self.title_weight, self.heading_weight) <= 0 or self.depth < 1:
            raise ValueError("title_weight and heading_weight must be above 0 and depth at least 1.")


class LocalKnowledge:
    """Documents of one's own, searched on this machine. Searching from several threads at once is safe."""

    def __init__(
        self, table: PassageTable, index: VectorIndex, embedder: Embedder, options: SearchOptions | None = None
    ) -> None:
        """Put ready parts together; ``from_folder``, ``from_documents`` and ``open`` make them.

        Args:
            table: The passages.
            index: Their vectors, in the same order.
            embedder: What made the vectors.
            options: How to search.
        """
        self.options = options or SearchOptions()
        self.embedder = embedder
        self._table = table
        self._index = index

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
        """Read, cut and embed every Markdown and text file of a folder.

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
        """Cut and embed documents, wherever they come from; arguments as in ``from_folder``.

        Raises:
            LoadingError: If the documents hold no text, or two have the same source.
        """
        chunks = [chunk for document in documents for chunk in chunk_document(document, chunking)]
        if not chunks:
            raise LoadingError("The documents hold headings at most: give at least one with a sentence in it.")
        table = PassageTable.build(documents, chunks)
        embedder, vectors = _embed(embedder, chunks, progress)
        return cls(table, _indexed(vectors, embedder.dim, device), embedder, options)

    @classmethod
    def open(
        cls, path: str | Path, embedder: Embedder, *, options: SearchOptions | None = None, device: Device = "auto"
    ) -> Self:
        """Open an index that ``save`` wrote. It is checked, and never changed.

        Args:
            path: Folder of the index.
            embedder: The embedder it was made with.
            options: How to search.
            device: Where vectors are searched (see ``VectorIndex``).

        Raises:
            IndexNotFound: If there is none.
            IndexCorrupt: If a file of it is missing, truncated or changed.
            EmbedderMismatch: If it was made by another embedder.
        """
        stored = read_index(path)
        made_by = stored.manifest
        if made_by.fingerprint != embedder.fingerprint or made_by.dim != embedder.dim:
            stored.table.close()
            raise EmbedderMismatch(
                f"The index at {path} was made by another embedder ({made_by.embedder!r}, {made_by.dim} dimensions, "
                f"fingerprint {made_by.fingerprint}) than this one ({embedder.name!r}, {embedder.dim} dimensions, "
                f"fingerprint {embedder.fingerprint}): open it with that one, or build it again with "
                f"`vivavoce index DIR --out {path}`."
            )
        if stored.center is not None and isinstance(embedder, CenteringEmbedder):
            embedder = embedder.with_center(stored.center)
        return cls(stored.table, _indexed(stored.vectors, made_by.dim, device), embedder, options)

    def save(self, path: str | Path) -> None:
        """Write the index into a folder, all or nothing; one that is there already is replaced.

        Raises:
            StoreError: If the folder holds something else, or cannot be written.
        """
        write_index(
            path,
            self._table,
            self._index.vectors(),
            embedder=self.embedder.name,
            fingerprint=self.embedder.fingerprint,
            center=self.embedder.center if isinstance(self.embedder, CenteringEmbedder) else None,
        )

    def search(
        self, query: str, k: int = 5, *, where: Where | None = None, options: SearchOptions | None = None
    ) -> tuple[Passage, ...]:
        """Find passages for a question.

        Args:
            query: What was asked. Any text is allowed; one without words finds nothing.
            k: How many passages at most, at least 1.
            where: Only documents whose metadata this holds for, such as ``{"year": {"$gt": 2020}}``; see `Where`.
            options: Search this once in another way.

        Returns:
            Up to ``k`` passages, best first. ``score`` is the weighted mean of ``similarity`` and ``coverage``, or the
            one that was looked for: below 1, and comparable between questions to one index. With ``fusion="rrf"`` it
            is the fused place in (0, 1], where 1 means first in every channel, however bad the best may be.
        """
        return self.search_many([query], k=k, where=where, options=options)

    def search_many(
        self,
        queries: Sequence[str],
        weights: Sequence[float] | None = None,
        k: int = 5,
        *,
        where: Where | None = None,
        favour: Sequence[tuple[Where, float]] = (),
        options: SearchOptions | None = None,
    ) -> tuple[Passage, ...]:
        """Find passages for a question of which several readings are possible, such as a recogniser's N-best list.

        Every distinct reading is searched, all in one batch, and counts by its weight.

        Args:
            queries: The readings. Those without words are left out.
            weights: How likely each is, such as its posterior; not negative, need not sum to 1. Default: equally.
            k: How many passages at most, at least 1.
            where: Only documents whose metadata this holds for.
            favour: Filters, each with what is added to the score of the passages that it holds for, of several the
                most. They are all looked at, however little they have in common with the question.
            options: Search this once in another way.

        Returns:
            As ``search``. ``score`` is its mean over the readings, by weight; ``similarity`` and ``coverage`` are those
            of the reading that fits best.

        Raises:
            ValueError: If there are not as many weights as queries, a weight is negative or not finite, ``k`` < 1, or
                the filter is malformed.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        how = options or self.options
        asked = _distinct(queries, weights)
        if not asked:
            return ()
        depth = max(how.depth, k)
        wanted = {id(one): self._table.where(one if where is None else {"$and": [where, one]}) for one, _ in favour}
        near, words = self._look(list(asked), depth, how, where, list(wanted.values()))
        fused = _fuse(near, words, list(asked.values()), how)
        if favour:
            fused = _favoured(fused, [(wanted[id(one)], extra) for one, extra in favour])
        best = list(fused)[:k]
        return tuple(
            replace(
                passage,
                score=fused[row],
                similarity=max(found[row] for found in near) if near else None,
                coverage=max(found.get(row, 0.0) for found in words) if words else None,
            )
            for row, passage in zip(best, self._table.passages(best), strict=True)
        )

    def _look(
        self,
        queries: list[str],
        depth: int,
        how: SearchOptions,
        where: Where | None,
        others: Sequence[NDArray[np.int64]] = (),
    ) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
        """Similarity and coverage by row, for each query; an empty list for a channel that is off.

        Similarities are complete: a passage that was found by its words alone has one as well. `others` are rows among
        which is looked too.
        """
        words: list[dict[int, float]] = []
        if "keyword" in how.channels:
            columns = (how.title_weight, how.heading_weight, 1.0)
            words = [self._table.keyword(query, depth, columns, where, others) for query in queries]
        if "dense" not in how.channels:
            return [], words
        vectors = self.embedder.embed(queries, kind="query")
        among = None if where is None else self._table.where(where)
        hits = [self._index.search(vectors, depth, rows) for rows in (among, *others)]
        nearest = (row for found in hits for row in found.rows.ravel().tolist())
        rows = sorted({*nearest, *(row for found in words for row in found)})
        cosines = vectors @ self._index.vectors(np.array(rows, np.int64)).T
        return [dict(zip(rows, line, strict=True)) for line in cosines.tolist()], words

    def names(self, least: int = 5) -> str | None:
        """The key of the metadata that says what a passage is about: of those that group passages, the finest.

        Args:
            least: How many values it must have.

        Returns:
            A key whose values are texts and far fewer than passages, such as `title` for pages of several passages;
            None if there is none.
        """
        return self._table.grouping(least)

    def ordinary(self, key: str, share: float = 0.05, sample: int = 20_000) -> frozenset[str]:
        """Words that passages about many different things hold, so that hearing one tells nothing about which is meant.

        Args:
            key: What passages are about.
            share: Of the values of `key` whose passages must hold a word.
            sample: How many passages are read.

        Returns:
            Words in lower case.
        """
        return self._table.ordinary(key, share, sample)

    def values(self, key: str) -> tuple[Any, ...]:
        """All values that a key of the documents' metadata has, sorted; `title` and `source` are keys too."""
        return self._table.values(key)

    def __len__(self) -> int:
        """How many passages it holds."""
        return len(self._index)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all documents, sorted."""
        return self._table.sources

    def close(self) -> None:
        """Let go of the files of an opened index. The knowledge base is of no use afterwards."""
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _distinct(queries: Sequence[str], weights: Sequence[float] | None) -> dict[str, float]:
    """Readings that hold words, each once, with the weight of all its copies."""
    shares = [1.0] * len(queries) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(queries):
        raise ValueError(f"{len(queries)} queries need as many weights, not {len(shares)}.")
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ValueError(f"Weights must be finite and not negative, got {shares}.")
    asked: dict[str, float] = {}
    for query, share in zip(queries, shares, strict=True):
        # Half of a surrogate pair is no text to SQLite or to a tokenizer.
        words = " ".join(query.encode("utf-8", "replace").decode().split())
        if share > 0 and any(map(str.isalnum, words)):
            asked[words] = asked.get(words, 0.0) + share
    return asked


def _fuse(
    near: list[dict[int, float]], words: list[dict[int, float]], shares: list[float], how: SearchOptions
) -> dict[int, float]:
    weights = [how.dense_weight * share for share in shares] if near else []
    weights += [(1 - how.dense_weight) * share for share in shares] if words else []
    if how.fusion == "sum":
        return weighted_sum([*near, *words], weights)
    return reciprocal_rank_fusion(
        [sorted(found, key=found.__getitem__, reverse=True) for found in (*near, *words)], weights
    )


def _favoured(fused: dict[int, float], wanted: Sequence[tuple[NDArray[np.int64], float]]) -> dict[int, float]:
    extras: dict[int, float] = {}
    for rows, extra in wanted:
        for row in rows.tolist():
            extras[row] = max(extra, extras.get(row, extra))
    scores = {row: score + extras.get(row, 0.0) for row, score in fused.items()}
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


def _embed(
    embedder: Embedder, chunks: Sequence[Chunk], progress: Progress | None
) -> tuple[Embedder, NDArray[np.float32]]:
    """Vectors of all chunks, and the embedder to ask with: centred on them if it needs a centre."""
    centring = embedder if isinstance(embedder, CenteringEmbedder) and embedder.center is None else None
    batches: list[NDArray[np.float32]] = []
    for first in range(0, len(chunks), _BATCH):
        texts = [chunk.in_context for chunk in chunks[first : first + _BATCH]]
        batches.append(centring.pooled(texts) if centring else embedder.embed(texts))
        if progress:
            progress(first + len(texts), len(chunks))
    vectors = np.concatenate(batches)
    if centring is None:
        return embedder, vectors
    centred = centring.with_center(vectors.mean(axis=0))
    return centred, centred.finish(vectors)


def _indexed(vectors: NDArray[np.float32], dim: int, device: Device) -> VectorIndex:
    index = VectorIndex(dim, device=device)
    index.add(vectors)
    return index
