"""One search of a store through its channels: how similar passages are to each reading, and what they cover of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..index.store import Store
from ..passages import Passage
from ..query.filters import Where
from .fusion import boosted, fuse_channels
from .options import SearchOptions


@dataclass(frozen=True, slots=True)
class ChannelSearch:
    """What one search goes by. It is made and run inside ``store.reading()``.

    Attributes:
        store: The passages and their vectors.
        options: Which channels, and how they are fused.
        depth: How many passages each channel puts forward.
        where: Only documents whose metadata this holds for.
        boosts: Rows among which is looked besides, int64, shape (n,), each with what is added to their scores.
    """

    store: Store
    options: SearchOptions
    depth: int
    where: Where | None = None
    boosts: Sequence[tuple[NDArray[np.int64], float]] = ()

    def run(self, readings: Mapping[str, float], vectors: NDArray[np.float32] | None, k: int) -> tuple[Passage, ...]:
        """Find passages.

        Args:
            readings: What is looked for, each with its weight; at least one.
            vectors: Of the readings: float32, shape (readings, dim), of unit length; None without the dense channel.
            k: How many passages at most.
        """
        coverages = self._coverages(readings)
        similarities = [] if vectors is None else self._similarities(vectors, coverages)
        fused = fuse_channels(similarities, coverages, list(readings.values()), self.options)
        if self.boosts:
            fused = boosted(fused, self.boosts)
        best = list(fused)[:k]
        scores = [
            (
                fused[row],
                max(scores[row] for scores in similarities) if similarities else None,
                max(scores.get(row, 0.0) for scores in coverages) if coverages else None,
            )
            for row in best
        ]
        return self.store.table.passages(best, scores)

    def _similarities(
        self, vectors: NDArray[np.float32], coverages: Sequence[Mapping[int, float]]
    ) -> list[dict[int, float]]:
        """Cosine by row, for each reading: of the nearest rows of every reading, and of those found by words alone."""
        index = self.store.index
        among = None if self.where is None else self.store.table.where(self.where)
        hits = [index.search(vectors, self.depth, rows) for rows in (among, *(rows for rows, _ in self.boosts))]
        if len(vectors) == len(hits) == 1 and not coverages:  # no row was found that has no cosine yet
            return [dict(zip(hits[0].rows[0].tolist(), hits[0].scores[0].tolist(), strict=True))]
        nearest = (row for one in hits for row in one.rows.ravel().tolist())
        rows = sorted({*nearest, *(row for scores in coverages for row in scores)})
        cosines = vectors @ index.vectors(np.array(rows, np.int64)).T
        return [dict(zip(rows, line, strict=True)) for line in cosines.tolist()]

    def _coverages(self, readings: Mapping[str, float]) -> list[dict[int, float]]:
        """Coverage by row, for each reading; empty if no channel looks for words."""
        if not {"keyword", "phonetic"} & set(self.options.channels):
            return []
        return [self._coverage(reading) for reading in readings]

    def _coverage(self, reading: str) -> dict[int, float]:
        """Coverage by row: of the words as they stand in the reading, or where that is more, as they sound."""
        table, options = self.store.table, self.options
        written = self._keyword(reading) if "keyword" in options.channels else {}
        sounding = table.sounding(reading) if "phonetic" in options.channels else None
        if sounding is None:
            return written if "keyword" in options.channels else self._keyword(reading)
        for row, coverage in self._keyword(sounding).items():
            before = written.get(row, 0.0)
            written[row] = before + options.phonetic_weight * max(0.0, coverage - before)
        return dict(sorted(written.items(), key=lambda pair: -pair[1]))

    def _keyword(self, text: str) -> dict[int, float]:
        columns = (self.options.title_weight, self.options.heading_weight, 1.0)
        return self.store.table.keyword(text, self.depth, columns, self.where, [rows for rows, _ in self.boosts])
