"""Vectors in a file that only grows: float32 rows, one after the other, nothing else.

How many of them count is said elsewhere, by whoever commits them (`PassageTable`). What stands behind that was left by
a writer that was killed; the next one cuts it off.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import IndexCorrupt


class VectorLog:
    """The file; opened for each use, so that nothing has to be closed."""

    def __init__(self, path: Path, dim: int) -> None:
        """Name the file; it need not be there yet."""
        self.path = path
        self._dim = dim

    def append(self, rows: int, vectors: NDArray[np.float32]) -> int:
        """Write vectors behind the first `rows`, and what stands there already is lost. On disk when it returns.

        Args:
            rows: How many are committed.
            vectors: float32, shape (n, dim).

        Returns:
            Their CRC-32.

        Raises:
            OSError: If they cannot be written; the committed ones are as they were.
        """
        data = np.ascontiguousarray(vectors, np.float32).view(np.uint8).reshape(-1).data
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = rows * self._width
            os.ftruncate(handle, end)
            written = 0
            while written < len(data):
                written += os.pwrite(handle, data[written:], end + written)
            os.fsync(handle)
        finally:
            os.close(handle)
        return zlib.crc32(data)

    def read(self, sums: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Read and check committed vectors.

        Args:
            sums: First row, number of rows and CRC-32 of each append that is wanted, in order, without gaps.

        Returns:
            float32, shape (n, dim).

        Raises:
            IndexCorrupt: If the file is missing, too short, or does not hold what was written.
        """
        first = sums[0][0] if sums else 0
        count = sum(size for _, size, _ in sums)
        vectors = np.empty((count, self._dim), np.float32)
        if not count:
            return vectors
        try:
            with self.path.open("rb") as file:
                file.seek(first * self._width)
                found, space = 0, vectors.view(np.uint8).reshape(-1).data
                while found < len(space) and (more := file.readinto(space[found:])):  # no read is longer than 2 GiB
                    found += more
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise IndexCorrupt(f"{self.path} {problem}") from error
        if found < vectors.nbytes:
            raise IndexCorrupt(f"{self.path} is truncated: {vectors.nbytes - found:,} bytes are missing at its end")
        for start, size, crc32 in sums:
            if zlib.crc32(vectors[start - first : start - first + size].data) != crc32:
                which = f"vectors {start:,} to {start + size - 1:,}"
                raise IndexCorrupt(f"{self.path} was changed: {which} are not as they were written")
        return vectors

    @property
    def _width(self) -> int:
        return 4 * self._dim
