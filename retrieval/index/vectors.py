"""Nearest vectors by inner product: an exact scan of few, of many by codes whose candidates are rescored exactly."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..device import Device, pick_device
from ..errors import DeviceUnavailable, DimensionMismatch, EmbeddingError
from .fastscan import LEAST, FastScan
from .mirror import MOST, Mirror, best_of

Precision = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest vectors of each query.

    Attributes:
        rows: int64, shape (queries, k): rows of the vectors, best first; by default, the order they were added in.
        scores: float32, shape (queries, k): inner products, for unit vectors the cosine.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class VectorIndex:
    """Search by inner product on FAISS. Vectors are named by rows, which only grow.

    It is exact (``IndexFlatIP``), until `tune` finds so many vectors that codes are quicker (`FastScan`). Then what the
    codes put forward is compared exactly, and at least 99 % of the ten nearest are found, by a check on the vectors
    themselves. A filtered search, and one on a GPU, is always exact.

    With ``precision="int8"`` it holds a quarter of the bytes from so many vectors on: one for each number, which lies
    anywhere between the least and the greatest of its dimension (``IndexScalarQuantizer``). With `exact` to read them
    from, what that puts forward is compared exactly too; else scores are off by up to a hundredth.

    Reading from several threads at once is safe; adding and removing while others read is not.
    """

    def __init__(self, dim: int, *, device: Device = "auto", precision: Precision = "float32") -> None:
        """Make an empty index.

        Args:
            dim: Length of the vectors.
            device: ``"cuda"`` keeps a copy on the first GPU and searches there; ``"auto"`` does so if FAISS was built
                for GPUs and there is one.
            precision: ``"int8"`` to save main memory where there are many vectors.

        Raises:
            DeviceUnavailable: If ``"cuda"`` is asked for and not there.
            ImportError: If FAISS is not installed; the message names both pip lines.
        """
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "Searching by meaning needs FAISS: pip install 'vivavoce[cpu]', or 'vivavoce[gpu]' for an NVIDIA GPU"
            ) from error

        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}.")
        if precision not in ("float32", "int8"):
            raise ValueError(f"precision must be 'float32' or 'int8', got {precision!r}.")
        self.dim = dim
        self.precision: Precision = precision
        self.device: Literal["cpu", "cuda"] = _faiss_device(faiss, device)
        self._flat: Any = faiss.IndexFlatIP(dim)
        self.exact: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None
        """Reads the unquantized vectors of some rows: float32, shape (n, dim)."""
        self._reserved = 0  # for so many vectors in all
        self._rows: NDArray[np.int64] | None = None  # of each vector; None while they are 0, 1, 2, …
        self.quick: FastScan | None = None
        self._tuned_at = 0  # how many vectors there were when it was last tried
        self._mirror: Mirror | None = None  # on the GPU; the copy in main memory is the truth
        self._gpu_lock = threading.Lock()  # GPU indexes are not thread-safe

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    def add(self, vectors: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> None:
        """Append vectors.

        Args:
            vectors: float32, shape (n, dim), unit length if scores are to be cosines.
            rows: int64, shape (n,), ascending: their names, above all that are there. Default: the next ones.

        Raises:
            DimensionMismatch: If they are not of this index's length.
            EmbeddingError: If a value is not finite.
        """
        self.check(vectors)
        count = len(self)
        end = count if self._rows is None else int(self._rows[-1]) + 1 if count else 0
        expected = np.arange(end, end + len(vectors))
        new_rows = expected if rows is None else np.ascontiguousarray(rows, np.int64)
        if new_rows.shape != expected.shape or (new_rows < expected).any() or (np.diff(new_rows) < 1).any():
            raise ValueError(f"rows must be {len(vectors)} ascending numbers from {end} on.")
        if self._rows is not None or not np.array_equal(new_rows, expected):
            self._rows = np.concatenate([self.rows, new_rows])
        self._flat.add(np.ascontiguousarray(vectors, np.float32))
        if self.precision == "int8" and len(self) >= LEAST:
            self._quantize()
        if self.quick is not None and len(new_rows):
            self.quick.add(vectors, new_rows)

    def reserve(self, count: int) -> None:
        """Make room for so many vectors in all: an index that grows takes twice its memory while it moves."""
        self._reserved = count
        quantizes = self.precision == "int8" and count >= LEAST
        if not quantizes or self._quantized:  # else it is made anew before it is full
            self._apply_reserve()

    @property
    def _quantized(self) -> bool:
        return int(self._flat.code_size) == self.dim  # bytes a vector

    def _apply_reserve(self) -> None:
        used, needed = self._flat.codes.size(), self._reserved * self._flat.code_size
        if needed > used:
            self._flat.codes.resize(needed)
            self._flat.codes.resize(used)  # the room stays

    def _quantize(self) -> None:
        """Store vectors as one byte a number instead of four, those added later too."""
        if self._quantized:
            return
        faiss: Any = importlib.import_module("faiss")
        quantizer = faiss.ScalarQuantizer.QT_8bit
        quantized = faiss.IndexScalarQuantizer(self.dim, quantizer, faiss.METRIC_INNER_PRODUCT)
        vectors = self.vectors()
        quantized.train(vectors)
        quantized.add(vectors)
        self._flat = quantized
        self._apply_reserve()

    def tune(self, least: int = LEAST) -> bool:
        """Train codes if there are enough vectors and none yet, or if most vectors changed since they were trained.

        Args:
            least: From how many vectors on codes are made.

        Returns:
            Whether there are other codes now than before.
        """
        changed = self.quick is not None and (
            len(self) > 4 * self.quick.trained or self.quick.lost > len(self.quick) // 4
        )
        if len(self) < least or not (changed or (self.quick is None and len(self) > 2 * self._tuned_at)):
            return False
        self._tuned_at = len(self)
        self.quick = FastScan.train(self._flat, self.rows)
        return True

    def take(self, codes: FastScan) -> None:
        """Use codes trained earlier on these vectors: removed vectors are skipped, new ones are added."""
        codes.remove(codes.rows[~np.isin(codes.rows, self.rows)])
        new = self.rows[~np.isin(self.rows, codes.rows)]
        if len(new):
            codes.add(self.vectors(new), new)
        self.quick = codes

    def check(self, vectors: NDArray[np.float32]) -> None:
        """Check that vectors can be added; raises what `add` raises."""
        if not np.isfinite(self._checked(vectors)).all():
            raise EmbeddingError("The vectors hold values that are not finite: check the embedder that made them.")

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove vectors; unknown rows are ignored. The others keep their rows."""
        removed = np.isin(self.rows, rows)
        if not removed.any():
            return
        faiss: Any = importlib.import_module("faiss")
        remaining = self.rows[~removed]
        self._flat.remove_ids(faiss.IDSelectorBatch(np.flatnonzero(removed)))
        self._rows = remaining
        if self.quick is not None:
            self.quick.remove(rows)
        if self._mirror is not None:
            self._mirror.remove(rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of all vectors, int64, shape (len(self),), ascending."""
        return np.arange(len(self)) if self._rows is None else self._rows

    def search(self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None) -> Hits:
        """Find the vectors with the largest inner products.

        Args:
            queries: float32, shape (m, dim).
            k: How many for each query; fewer come back if the index holds fewer.
            among: Only these rows, int64, shape (n,), each once. They are searched in main memory, and only they.

        Returns:
            The hits, shape (m, min(k, len(self))), or (m, min(k, len(among))).

        Raises:
            DimensionMismatch: If the queries are not of this index's length.
        """
        queries = self._checked(queries)
        available = len(self) if among is None else len(among)
        k = min(k, available)
        if k < 1 or not len(queries):
            return Hits(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
        if self.exact is None or not self._quantized:
            return self._search(queries, k, among)
        hits = self._search(queries, min(2 * k + 10, available), among)
        vectors = self.vectors(hits.rows.ravel()).reshape(*hits.rows.shape, self.dim)
        return Hits(*best_of([(hits.rows, np.einsum("mkd,md->mk", vectors, queries))], k))

    def _search(self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None) -> Hits:
        if among is not None:
            positions, scores = self._search_rows(queries, k, self._positions(np.ascontiguousarray(among, np.int64)))
        elif self.device == "cuda" and k <= MOST:
            return Hits(*self._search_gpu(queries, k))
        elif self.quick is not None and k <= len(self) // 16:
            positions, scores = self._search_codes(self.quick, queries, k)
        else:
            scores, positions = self._flat.search(queries, k)
        return Hits(positions if self._rows is None else self._rows[positions], scores)

    def _search_codes(
        self, codes: FastScan, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        nearest = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for number, (query, rows) in enumerate(zip(queries, codes.near(queries, k), strict=True)):
            if len(rows) < k:  # most of those that are near were taken out
                scores[number : number + 1], nearest[number : number + 1] = self._flat.search(query[None], k)
                continue
            positions = self._positions(rows)
            products = self._vectors_at(positions) @ query
            best = np.argsort(-products, kind="stable")[:k]
            nearest[number], scores[number] = positions[best], products[best]
        return nearest, scores

    def _search_rows(
        self, queries: NDArray[np.float32], k: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Search only these positions: gathered if they are few, else by a scan with a selector."""
        faiss: Any = importlib.import_module("faiss")  # its stubs do not know selectors
        if len(positions) < len(self) // 4:
            scores = queries @ self._vectors_at(positions).T
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            top_scores = np.take_along_axis(scores, top, axis=1)
            order = np.argsort(-top_scores, axis=1, kind="stable")
            return positions[np.take_along_axis(top, order, axis=1)], np.take_along_axis(top_scores, order, axis=1)
        mask = np.zeros(len(self), bool)
        mask[positions] = True
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        top_scores, top = self._flat.search(queries, k, params=faiss.SearchParameters(sel=selector))
        return top, top_scores

    def vectors(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """A copy of the vectors in these rows, or of all: float32, shape (n, dim), as exact as can be."""
        if rows is None:
            return np.asarray(self._flat.reconstruct_n(0, len(self)), np.float32)
        if self._quantized and self.exact is not None:
            return self.exact(rows)
        return self._vectors_at(self._positions(np.ascontiguousarray(rows, np.int64)))

    def _vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._flat.reconstruct_batch(positions), np.float32)

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self._rows is None else np.searchsorted(self._rows, rows)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise DimensionMismatch(
                f"Vectors of shape {vectors.shape} do not fit an index of shape (n, {self.dim}): "
                "use the embedder that the index was made with."
            )
        return np.ascontiguousarray(vectors, np.float32)

    def _search_gpu(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        with self._gpu_lock:
            new = self.rows[self.rows > self._mirror.last] if self._mirror is not None else self.rows
            if self._mirror is None or not self._mirror.serves(k, len(new)):
                self._mirror, new = self._make_mirror(), new[:0]
            results = [self._mirror.search(queries, k)]
        if len(new):  # beside the mirror
            nearest, scores = self._search_rows(queries, min(k, len(new)), self._positions(new))
            results.append((nearest if self._rows is None else self._rows[nearest], scores))
        return best_of(results, k)

    def _make_mirror(self) -> Mirror:
        import faiss

        exact = self._flat
        if not isinstance(exact, faiss.IndexFlatIP):  # a GPU takes no other that is searched as a whole
            exact = faiss.IndexFlatIP(self.dim)
            exact.add(self.vectors())
        resources = faiss.StandardGpuResources()
        return Mirror(faiss.index_cpu_to_gpu(resources, 0, exact), self.rows, resources)


def _faiss_device(faiss: Any, device: Device) -> Literal["cpu", "cuda"]:
    has_gpu_build = hasattr(faiss, "StandardGpuResources")
    problem = (
        "it finds no GPU"
        if has_gpu_build
        else "it was built without GPU support (pip uninstall -y faiss-cpu; pip install 'vivavoce[gpu]')"
    )
    missing = f"FAISS cannot search on a GPU: {problem}. Use device='auto' to fall back to the CPU."
    return pick_device(device, lambda: has_gpu_build and faiss.get_num_gpus() > 0, DeviceUnavailable(missing))
