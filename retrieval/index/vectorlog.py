"""An append-only file of vectors: float32 rows, one after the other, nothing else.

How many are committed is recorded in the database (`PassageTable`). Rows behind those were left by a writer that was
killed; the next one cuts them off.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import IndexCorrupt

BLOCK = 65_536
"""Most vectors that are read or written at once."""


class VectorLog:
    """The file; opened for each use, so that nothing has to be closed, or mapped where single rows are read."""

    def __init__(self, path: Path, dim: int) -> None:
        """Name the file; it need not be there yet."""
        self.path = path
        self._dim = dim
        self._mapped: NDArray[np.float32] | None = None

    def append(self, rows: int, vectors: NDArray[np.float32]) -> int:
        """Write vectors behind the first `rows`, over whatever follows those; on disk when it returns.

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

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Committed vectors as they were given, float32, shape (n, dim). They are not checked."""
        if not len(rows):
            return np.empty((0, self._dim), np.float32)
        if self._mapped is None or len(self._mapped) <= int(rows.max()):
            count = self.path.stat().st_size // self._width  # a writer may be adding to the end
            self._mapped = np.memmap(self.path, np.float32, "r", shape=(count, self._dim))
        return np.asarray(self._mapped[rows])

    def blocks(self, sums: Sequence[tuple[int, int, int]]) -> Iterator[NDArray[np.float32]]:
        """Read committed vectors in blocks, and verify each append when its last block comes.

        Args:
            sums: First row, number of rows and CRC-32 of each append that is wanted, in order, without gaps.

        Yields:
            float32, shape (n, dim).

        Raises:
            IndexCorrupt: If the file is missing, too short, or does not hold what was written.
        """
        if not sums:
            return
        end = (sums[-1][0] + sums[-1][1]) * self._width
        try:
            with self.path.open("rb") as file:
                missing_bytes = end - os.fstat(file.fileno()).st_size
                if missing_bytes > 0:
                    raise IndexCorrupt(f"{self.path} is truncated: {missing_bytes:,} bytes are missing at its end")
                file.seek(sums[0][0] * self._width)
                for start, size, crc32 in sums:
                    checksum = 0
                    for first in range(0, size, BLOCK):
                        block = np.fromfile(file, np.float32, min(BLOCK, size - first) * self._dim)
                        checksum = zlib.crc32(block.data, checksum)
                        if first + BLOCK >= size and checksum != crc32:
                            damaged = f"vectors {start:,} to {start + size - 1:,}"
                            raise IndexCorrupt(f"{self.path} was changed: {damaged} are not as they were written")
                        yield block.reshape(-1, self._dim)
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise IndexCorrupt(f"{self.path} {problem}") from error

    @property
    def _width(self) -> int:
        return 4 * self._dim
