"""Vectors as short codes that are scanned in a register: near ones are found quickly, then looked at exactly.

Every four dimensions become four bits (product quantization, Jégou et al. 2011, https://doi.org/10.1109/TPAMI.2010.57),
and the distances of a query to the sixteen possible codes of each four are kept in vector registers while all codes go
by (André et al. 2017, https://arxiv.org/abs/1704.07355; FAISS calls it fast scan). All vectors are scanned, so what is
found does not hang on how they cluster, and more are added without training anew; on 100,000 vectors of 384 dimensions
it takes a thirtieth of the time of an exact scan.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .folder import UNFINISHED

LEAST = 20_000
"""From how many vectors on codes are worth their while."""
_TRAINED_ON = 30_000
_BLOCK = 65_536
_CHECKED = 200  # queries that recall is measured with
_WANTED = 0.998  # recall@10 that is asked for; what is promised is 0.99
_CANDIDATES = (50, 100, 200, 400, 800, 1600)


class FastScan:
    """Codes of vectors, each with the row that it belongs to; -1 where it belongs to none any more."""

    def __init__(self, codes: Any, rows: NDArray[np.int64], candidates: int, trained: int) -> None:
        """Put parts together; `train` and `load` make them.

        Args:
            codes: The FAISS index.
            rows: int64, shape (n,): the row of each code.
            candidates: How many codes have to be looked at exactly for ten near vectors.
            trained: How many vectors there were when it was trained.
        """
        self._codes = codes
        self.rows = rows
        self.candidates = candidates
        self.trained = trained

    @classmethod
    def train(cls, exact: Any, rows: NDArray[np.int64], seed: int = 0) -> Self | None:
        """Make codes for vectors, and find out how many must be looked at.

        Args:
            exact: A FAISS index of the vectors that finds the nearest ones exactly, by inner product.
            rows: int64, shape (n,): what they are called.
            seed: Of what is drawn.

        Returns:
            The codes; None if the dimension cannot be cut into fours, or the codes of these vectors tell too little.
        """
        faiss: Any = importlib.import_module("faiss")
        dim, count = exact.d, exact.ntotal
        if dim % 8:
            return None
        rng = np.random.default_rng(seed)
        sample = exact.reconstruct_batch(np.sort(rng.permutation(count)[:_TRAINED_ON]))
        codes = faiss.IndexPQFastScan(dim, dim // 4, 4, faiss.METRIC_INNER_PRODUCT)
        codes.pq.cp.niter = 10  # of k-means; what fewer rounds lose, more candidates make up for
        codes.train(sample)
        for first in range(0, count, _BLOCK):  # never all of them at once beside those of the index
            codes.add(exact.reconstruct_n(first, min(_BLOCK, count - first)))
        # Queries lie near what answers them, not on it.
        asked = exact.reconstruct_batch(rng.permutation(count)[:_CHECKED])
        asked = asked + rng.normal(0, 0.5 / np.sqrt(dim), asked.shape).astype(np.float32)
        truth = exact.search(asked, 10)[1]
        for candidates in _CANDIDATES:
            if candidates > count // 8:
                break
            found = codes.search(asked, candidates)[1]
            recall = np.mean([np.isin(wanted, near).mean() for wanted, near in zip(truth, found, strict=True)])
            if recall >= _WANTED:
                return cls(codes, rows.copy(), candidates, count)
        return None

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Make codes for more vectors."""
        self._codes.add(np.ascontiguousarray(vectors, np.float32))
        self.rows = np.concatenate([self.rows, rows])

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget rows; their codes stay and are passed over."""
        self.rows = np.where(np.isin(self.rows, rows), -1, self.rows)

    @property
    def lost(self) -> int:
        """How many codes belong to no row any more."""
        return int((self.rows < 0).sum())

    def near(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
        """Rows that may be among the k nearest of each query, in no order."""
        wanted = min(max(self.candidates, 4 * k), len(self))
        found = self.rows[self._codes.search(queries, wanted)[1]]
        return [line[line >= 0] for line in found]

    def save(self, path: Path, renamed: NDArray[np.int64] | None = None) -> str:
        """Write it into a file of NumPy arrays, all or nothing.

        Args:
            path: The file.
            renamed: New name of each row, -1 for none, where rows are counted anew.

        Returns:
            SHA-256 of the file, in hexadecimal digits: `load` asks for it.
        """
        faiss: Any = importlib.import_module("faiss")
        rows = self.rows if renamed is None else np.where(self.rows < 0, -1, renamed[self.rows])
        numbers = np.array([self.candidates, self.trained], np.int64)
        content = io.BytesIO()
        np.savez(content, codes=faiss.serialize_index(self._codes), rows=rows, numbers=numbers)
        aside = path.with_name(path.name + UNFINISHED)
        aside.write_bytes(content.getbuffer())
        aside.replace(path)
        return hashlib.sha256(content.getbuffer()).hexdigest()

    @classmethod
    def load(cls, path: Path, checksum: str | None) -> Self | None:
        """Read what `save` wrote.

        Args:
            path: The file.
            checksum: What `save` returned; None if that is not known.

        Returns:
            The codes; None if there is no such file, or it is not the one that was saved. FAISS reads only what it
            wrote itself: what it makes of other bytes is not defined.
        """
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != checksum:
            return None
        faiss: Any = importlib.import_module("faiss")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as content:
                candidates, trained = map(int, content["numbers"])
                return cls(faiss.deserialize_index(content["codes"]), content["rows"], candidates, trained)
        except (ValueError, KeyError, RuntimeError, zipfile.BadZipFile):  # another version of FAISS wrote it
            return None
