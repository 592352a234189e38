"""Nearest vectors by inner product: exact while they are few, by codes and then exactly when they are many."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..embedding.loading import Device, pick_device
from ..errors import DeviceUnavailable, DimensionMismatch, EmbeddingError
from .fastscan import LEAST, FastScan
from .mirror import MOST, Mirror, best_of

Precision = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search among vectors found.

    Attributes:
        rows: int64, shape (queries, k): names of the vectors, best first; unless told, the order they were added in.
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
        """Where the vectors of some rows are as they were given: float32, shape (n, dim)."""
        self._room = 0  # for so many vectors in all
        self._rows: NDArray[np.int64] | None = None  # of each vector; None while they are 0, 1, 2, …
        self.quick: FastScan | None = None
        self._tuned = 0  # how many vectors there were when it was last tried
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
        there = len(self)
        end = there if self._rows is None else int(self._rows[-1]) + 1 if there else 0
        following = np.arange(end, end + len(vectors))
        named = following if rows is None else np.ascontiguousarray(rows, np.int64)
        if named.shape != following.shape or (named < following).any() or (np.diff(named) < 1).any():
            raise ValueError(f"rows must be {len(vectors)} ascending numbers from {end} on.")
        if self._rows is not None or not np.array_equal(named, following):
            self._rows = np.concatenate([self.rows, named])
        self._flat.add(np.ascontiguousarray(vectors, np.float32))
        if self.precision == "int8" and len(self) >= LEAST:
            self._shrink()
        if self.quick is not None and len(named):
            self.quick.add(vectors, named)

    def reserve(self, count: int) -> None:
        """Make room for so many vectors in all: an index that grows takes twice its memory while it moves."""
        self._room = count
        small = self.precision == "int8" and count >= LEAST
        if not small or self._shrunk:  # else it is made anew before it is full
            self._make_room()

    @property
    def _shrunk(self) -> bool:
        return int(self._flat.code_size) == self.dim  # bytes a vector

    def _make_room(self) -> None:
        held, wanted = self._flat.codes.size(), self._room * self._flat.code_size
        if wanted > held:
            self._flat.codes.resize(wanted)
            self._flat.codes.resize(held)  # the room stays

    def _shrink(self) -> None:
        """From four bytes a number to one; what comes later is kept so as well."""
        if self._shrunk:
            return
        faiss: Any = importlib.import_module("faiss")
        quantizer = faiss.ScalarQuantizer.QT_8bit
        small = faiss.IndexScalarQuantizer(self.dim, quantizer, faiss.METRIC_INNER_PRODUCT)
        vectors = self.vectors()
        small.train(vectors)
        small.add(vectors)
        self._flat = small
        self._make_room()

    def tune(self, least: int = LEAST) -> bool:
        """Make codes where there are none and enough vectors, or where most of what they were made for has changed.

        Args:
            least: From how many vectors on codes are made.

        Returns:
            Whether there are other codes now than before.
        """
        changed = self.quick is not None and (
            len(self) > 4 * self.quick.trained or self.quick.lost > len(self.quick) // 4
        )
        if len(self) < least or not (changed or (self.quick is None and len(self) > 2 * self._tuned)):
            return False
        self._tuned = len(self)
        self.quick = FastScan.train(self._flat, self.rows)
        return True

    def take(self, codes: FastScan) -> None:
        """Use codes that were made of these vectors before: those that are gone are passed over, new ones are added."""
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
        """Take vectors out; rows that are not there are passed over. The others keep their names."""
        gone = np.isin(self.rows, rows)
        if not gone.any():
            return
        faiss: Any = importlib.import_module("faiss")
        kept = self.rows[~gone]
        self._flat.remove_ids(faiss.IDSelectorBatch(np.flatnonzero(gone)))
        self._rows = kept
        if self.quick is not None:
            self.quick.remove(rows)
        if self._mirror is not None:
            self._mirror.remove(rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Names of all vectors, int64, shape (len(self),), ascending."""
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
        asked = self._checked(queries)
        held = len(self) if among is None else len(among)
        k = min(k, held)
        if k < 1 or not len(asked):
            return Hits(np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32))
        if self.exact is None or not self._shrunk:
            return self._search(asked, k, among)
        hits = self._search(asked, min(2 * k + 10, held), among)
        vectors = self.vectors(hits.rows.ravel()).reshape(*hits.rows.shape, self.dim)
        return Hits(*best_of([(hits.rows, np.einsum("mkd,md->mk", vectors, asked))], k))

    def _search(self, asked: NDArray[np.float32], k: int, among: NDArray[np.int64] | None) -> Hits:
        if among is not None:
            found, scores = self._among(asked, k, self._places(np.ascontiguousarray(among, np.int64)))
        elif self.device == "cuda" and k <= MOST:
            return Hits(*self._on_gpu(asked, k))
        elif self.quick is not None and k <= len(self) // 16:
            found, scores = self._quickly(self.quick, asked, k)
        else:
            scores, found = self._flat.search(asked, k)
        return Hits(found if self._rows is None else self._rows[found], scores)

    def _quickly(
        self, codes: FastScan, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for line, (query, rows) in enumerate(zip(queries, codes.near(queries, k), strict=True)):
            if len(rows) < k:  # most of those that are near were taken out
                scores[line : line + 1], found[line : line + 1] = self._flat.search(query[None], k)
                continue
            places = self._places(rows)
            exact = self._at(places) @ query
            best = np.argsort(-exact, kind="stable")[:k]
            found[line], scores[line] = places[best], exact[best]
        return found, scores

    def _among(
        self, queries: NDArray[np.float32], k: int, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Read the wanted vectors only if they are few; else all in their order, which memory is quicker at."""
        faiss: Any = importlib.import_module("faiss")  # its stubs do not know selectors
        if len(places) < len(self) // 4:
            scores = queries @ self._at(places).T
            near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            found = np.take_along_axis(scores, near, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            return places[np.take_along_axis(near, order, axis=1)], np.take_along_axis(found, order, axis=1)
        bits = np.zeros(len(self), bool)
        bits[places] = True
        chosen = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        found, near = self._flat.search(queries, k, params=faiss.SearchParameters(sel=chosen))
        return near, found

    def vectors(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """A copy of the vectors in these rows, or of all: float32, shape (n, dim), as exact as can be."""
        if rows is None:
            return np.asarray(self._flat.reconstruct_n(0, len(self)), np.float32)
        if self._shrunk and self.exact is not None:
            return self.exact(rows)
        return self._at(self._places(np.ascontiguousarray(rows, np.int64)))

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._flat.reconstruct_batch(places), np.float32)

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self._rows is None else np.searchsorted(self._rows, rows)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise DimensionMismatch(
                f"Vectors of shape {vectors.shape} do not fit an index of shape (n, {self.dim}): "
                "use the embedder that the index was made with."
            )
        return np.ascontiguousarray(vectors, np.float32)

    def _on_gpu(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        with self._gpu_lock:
            new = self.rows[self.rows > self._mirror.last] if self._mirror is not None else self.rows
            if self._mirror is None or not self._mirror.serves(k, len(new)):
                self._mirror, new = self._mirrored(), new[:0]
            found = [self._mirror.search(queries, k)]
        if len(new):  # on the side
            near, scores = self._among(queries, min(k, len(new)), self._places(new))
            found.append((near if self._rows is None else self._rows[near], scores))
        return best_of(found, k)

    def _mirrored(self) -> Mirror:
        import faiss

        exact = self._flat
        if not isinstance(exact, faiss.IndexFlatIP):  # a GPU takes no other that is searched as a whole
            exact = faiss.IndexFlatIP(self.dim)
            exact.add(self.vectors())
        resources = faiss.StandardGpuResources()
        return Mirror(faiss.index_cpu_to_gpu(resources, 0, exact), self.rows, resources)


def _faiss_device(faiss: Any, device: Device) -> Literal["cpu", "cuda"]:
    built = hasattr(faiss, "StandardGpuResources")
    problem = (
        "it finds no GPU"
        if built
        else "it was built without GPU support (pip uninstall -y faiss-cpu; pip install 'vivavoce[gpu]')"
    )
    missing = f"FAISS cannot search on a GPU: {problem}. Use device='auto' to fall back to the CPU."
    return pick_device(device, lambda: built and faiss.get_num_gpus() > 0, DeviceUnavailable(missing))
