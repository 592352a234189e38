"""A copy of an index on a GPU that survives changes of the index.

FAISS's indexes on a GPU cannot take vectors out, know no selectors, and are not thread-safe (Johnson et al. 2017,
https://arxiv.org/abs/1702.08734): the copy in main memory is the truth. Vectors removed since the mirror was made are
skipped, and later ones are searched beside it, until either is too many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 2048
"""Greatest k of a FAISS search on a GPU."""
_MAX_CHANGED_PART = 8  # one part in so many may have changed


class Mirror:
    """A copy of vectors, and the row of each."""

    def __init__(self, copy: Any, rows: NDArray[np.int64], resources: Any = None) -> None:
        """Keep a copy.

        Args:
            copy: The FAISS index on the GPU.
            rows: int64, shape (n,), ascending: the rows of its vectors.
            resources: What must live as long as the copy does.
        """
        self._copy = copy
        self._rows = rows.copy()
        self._resources = resources
        self.last = int(rows[-1]) if len(rows) else -1
        self._lost = 0

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Skip these rows from now on."""
        self._rows = np.where(np.isin(self._rows, rows), -1, self._rows)
        self._lost = int((self._rows < 0).sum())

    def serves(self, k: int, new: int) -> bool:
        """Whether a search for the k best may still use the mirror, with so many new vectors outside it."""
        return k + self._lost <= MOST and self._lost + new <= len(self._rows) // _MAX_CHANGED_PART

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best rows of each query, removed ones left out, best first, and their inner products.

        Returns:
            Shape (m, k) each; where there are fewer, -1 with a score of minus infinity.
        """
        scores, positions = self._copy.search(queries, min(k + self._lost, len(self._rows)))
        rows = np.where(positions < 0, -1, self._rows[positions])
        scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
        return best_of([(rows, scores)], k)


def best_of(
    results: list[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of several results, each rows and scores of shape (m, any): shape (m, k), or all there are."""
    rows = np.concatenate([part for part, _ in results], axis=1)
    scores = np.concatenate([part for _, part in results], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
