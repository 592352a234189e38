"""The folder of an index: its manifest, its generations, and the lock of its one writer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import IndexCorrupt, IndexNotFound, StoreError

FORMAT = "vivavoce-index"
VERSION = 3
WAIT = 60.0
"""How many seconds a writer waits for another one."""
MANIFEST = "manifest.json"
PASSAGES = "passages.sqlite"
VECTORS = "vectors.f32"
CODES = "codes.npz"


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
    """Inode, time and size of a file; empty if there is none."""
    """Changes with every manifest; empty if there is none."""
    try:
        found = (root / MANIFEST).stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def swap_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically, and have it on disk."""
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    content["checksum"] = _checksum(content)
    beside = root / f"{MANIFEST}.new"
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
    (root / f"{MANIFEST}.new").unlink(missing_ok=True)
    for entry in root.iterdir():
        if entry.name != live and entry.name.startswith("generation-"):
            shutil.rmtree(entry, ignore_errors=True)


def is_ours(name: str) -> bool:
    """Whether a file of that name belongs to an index."""
    return name.startswith(("generation-", f"{MANIFEST}.new"))


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when the process ends, however it ends."""
    handle = os.open(root, os.O_RDONLY)
    until = time.monotonic() + WAIT
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError(
                        f"Another process has been writing to {root} for {WAIT:.0f} s: try again when it is done.",
                        stage="save",
                        retryable=True,
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


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
