"""The folder of an index: its manifest, its generations, and the lock of its one writer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import IndexCorrupt, IndexNotFound, StoreError

FORMAT = "vivavoce-index"
VERSION = 3
WAIT = 60.0
"""How many seconds a writer waits for another one."""
MANIFEST = "manifest.json"
PASSAGES = "passages.sqlite"
VECTORS = "vectors.f32"
CODES = "codes.npz"
UNFINISHED = ".new"
"""Behind the name of a file while it is written."""
LOCK = "vivavoce-index.lock"
"""The file that the one writer locks. What it says is of no account, and it may stay behind."""
GENERATION_FILES = frozenset(
    {PASSAGES, f"{PASSAGES}-wal", f"{PASSAGES}-shm", f"{PASSAGES}-journal", VECTORS, CODES, CODES + UNFINISHED}
)
"""All that a generation may hold."""
_GENERATION = re.compile(r"generation-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index folder says about itself.

    Attributes:
        generation: Name of the folder that holds its files.
        embedder: Name of the embedder that made the vectors.
        fingerprint: Fingerprint of that embedder.
        dim: Length of the vectors.
    """

    generation: str
    embedder: str
    fingerprint: str
    dim: int


def is_index(path: str | Path) -> bool:
    """Whether a folder says that it is an index (it may still be damaged)."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(path: str | Path) -> Manifest:
    """Read what an index folder says about itself, without opening the index.

    Raises:
        IndexNotFound: If there is no index.
        IndexCorrupt: If the manifest is damaged or of another format.
    """
    root = Path(path)
    try:
        content = json.loads((root / MANIFEST).read_bytes())
        checksum = content.pop("checksum")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexNotFound(f"There is no index at {root}: build it with {rebuild_hint(root)}.") from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise IndexCorrupt(f"{root / MANIFEST} is damaged: build the index again with {rebuild_hint(root)}.") from error
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise IndexCorrupt(
            f"{root / MANIFEST} is of format {content.get('format')!r} {content.get('version')!r}, this version reads "
            f"{FORMAT!r} {VERSION}: build the index again with {rebuild_hint(root)}."
        )
    if checksum != _checksum(content):
        raise IndexCorrupt(f"{root / MANIFEST} was changed: build the index again with {rebuild_hint(root)}.")
    return Manifest(**{one.name: content[one.name] for one in fields(Manifest)})


def missing_file(file: Path) -> int:
    """How many bytes a database that nobody is writing to lacks, by what its first page says."""
    with file.open("rb") as stream:
        head = stream.read(100)
    size = int.from_bytes(head[16:18], "big") if len(head) == 100 else 1
    return int.from_bytes(head[28:32], "big") * (65536 if size == 1 else size) - file.stat().st_size


def file_signature(root: Path) -> tuple[int, ...]:
    """Inode, time and size of the manifest, which change with every new one; empty if there is none."""
    try:
        status = (root / MANIFEST).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def swap_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically, and have it on disk."""
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    content["checksum"] = _checksum(content)
    beside = root / (MANIFEST + UNFINISHED)
    beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    sync_folder(beside)
    os.replace(beside, root / MANIFEST)
    sync_folder(root)


def sweep_generations(root: Path) -> None:
    """Remove what no manifest speaks of: the generation before, or one whose write did not end."""
    try:
        live = read_manifest(root).generation
    except IndexNotFound:
        live = None
    except IndexCorrupt:
        return  # better left for whoever wants to look into it
    (root / (MANIFEST + UNFINISHED)).unlink(missing_ok=True)
    for entry in root.iterdir():
        if entry.name != live and is_generation(entry):
            with suppress(OSError):  # somebody reads it, where a file that is open cannot be removed: the next sweep
                # File by file: what somebody put there since it was looked at is not ours to remove.
                for name in GENERATION_FILES:
                    (entry / name).unlink(missing_ok=True)
                entry.rmdir()


def is_generation(entry: Path) -> bool:
    """Whether this is a generation of an index: by its name, and because it holds nothing else."""
    if not _GENERATION.fullmatch(entry.name) or entry.is_symlink():
        return False
    try:
        return all(file.name in GENERATION_FILES and file.is_file() for file in entry.iterdir())
    except OSError:  # no folder, or one that has just been swept
        return False


def is_ours(entry: Path) -> bool:
    """Whether what lies in an index folder beside its manifest was put there by this module."""
    return entry.name in (LOCK, MANIFEST + UNFINISHED) or is_generation(entry)


def check_replaceable(root: Path) -> None:
    """Check that an index may be written into an existing folder: that it is empty, or holds an index already.

    Raises:
        StoreError: If it holds something else.
    """
    try:
        read_manifest(root)
        return
    except (IndexNotFound, IndexCorrupt):
        others = [entry for entry in root.iterdir() if entry.name != LOCK]
    if others and not any(map(is_ours, others)):
        raise StoreError(f"{root} holds other files and no index: name a new or empty folder.", stage="save")


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when the process ends, however it ends.

    Raises:
        StoreError: If somebody else holds it for longer than `WAIT`.
        OSError: If it cannot be made.
    """
    lock = FileLock(root / LOCK)  # one for each use: two in one process exclude each other as well
    try:
        lock.acquire(timeout=WAIT, poll_interval=0.01)
    except Timeout:
        raise StoreError(
            f"Another process has been writing to {root} for {WAIT:.0f} s: try again when it is done.",
            stage="save",
            retryable=True,
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def clear_errors(root: Path) -> Iterator[None]:
    """Turn what the disk or SQLite says into errors that name the fix."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError(
            f"The index could not be written to {root} ({error}): make room or choose another folder.",
            stage="save",
            retryable=True,
        ) from error
    except sqlite3.DatabaseError as error:
        raise damaged_index(root, error, root) from error


def sync_folder(path: Path) -> None:
    """Have a file, or a folder's entries, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damaged_index(file: Path, error: Exception, root: Path) -> IndexCorrupt:
    """The error for a file that is not as it was written."""
    return IndexCorrupt(f"{file} is damaged ({error}): build the index again with {rebuild_hint(root)}.")


def rebuild_hint(root: Path | None) -> str:
    """The command that builds the index again."""
    return f"`vivavoce index DIR --out {root}`"
