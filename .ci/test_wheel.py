"""The wheel, in an environment that holds it and nothing for development, answers a recording.

The environment is kept under ``$XDG_CACHE_HOME/vivavoce-ci`` (else ``~/.cache``) for as long as the wheel asks for the
same packages, which saves minutes; one that is broken is made anew. The weights are those that ``make test`` fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

from vivavoce.speech import Audio

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "memory", "retrieval", "speech")
COFFEEHOUSE = ROOT / "examples" / "coffeehouse"
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivavoce-ci"
UNUSED = 7 * 24 * 3600
"""Seconds after which an environment that no run asked for is thrown away."""

WHOLE = """
from importlib import metadata
for distribution in metadata.distributions():
    for file in distribution.files or ():
        if file.size is not None:
            assert file.locate().stat().st_size == file.size, file
"""
"""Fails unless each file of what is installed is there, with its size."""

pytestmark = pytest.mark.timeout(3600)  # a new environment is a gigabyte to install


def called(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user's shell starts it: without what this run of Python was told, and outside the checkout."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**environment, "PYTHONNOUSERSITE": "1", "VIVAVOCE_HOME": str(cwd / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def succeeded(*command: object, cwd: Path) -> str:
    done = called(*command, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of what lies here; built from a copy, since setuptools takes in what an earlier build left behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    succeeded(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, copy, cwd=out)
    (built,) = out.glob("vivavoce-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Iterator[Path]:
    """Python of an environment with ``vivavoce[cpu]`` out of the wheel; nobody else uses it meanwhile."""
    away = tmp_path_factory.mktemp("away")
    environment = KEPT / f"wheel-{fingerprint(wheel)}"
    KEPT.mkdir(parents=True, exist_ok=True)
    throw_away_what_nobody_uses(environment)
    with FileLock(KEPT / f"{environment.name}.lock"):
        if not renewed(environment, wheel, away):
            make(environment, wheel, away)
        yield environment / "bin" / "python"


def fingerprint(wheel: Path) -> str:
    """Changes with what is asked for, and with the Python that asks."""
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    asked = metadata.PathDistribution(info).requires or []  # type: ignore[arg-type]
    users = sorted(one for one in asked if not re.search(r"extra == .dev\b", one))
    told = [*users, (ROOT / "constraints.txt").read_text(encoding="utf-8"), sys.version, sys.base_prefix]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def throw_away_what_nobody_uses(but: Path) -> None:
    for ready in KEPT.glob("wheel-*/ready"):
        if ready.parent != but and time.time() - ready.stat().st_mtime > UNUSED:
            shutil.rmtree(ready.parent, ignore_errors=True)


def renewed(environment: Path, wheel: Path, away: Path) -> bool:
    """Put the wheel into an environment that is kept; whether that is still sound."""
    ready, python = environment / "ready", environment / "bin" / "python"
    if not (ready.is_file() and python.exists()):
        return False
    pip = (python, "-m", "pip", "--quiet")
    steps = (
        (*pip, "uninstall", "--yes", "vivavoce"),
        (*pip, "install", "--no-deps", wheel),
        (*pip, "check"),
        (python, "-c", WHOLE),
    )
    sound = all(called(*step, cwd=away).returncode == 0 for step in steps)
    if sound:
        ready.touch()
    return sound


def make(environment: Path, wheel: Path, away: Path) -> None:
    """As the README tells a user to."""
    shutil.rmtree(environment, ignore_errors=True)
    succeeded(sys.executable, "-m", "venv", environment, cwd=away)
    install = (environment / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    succeeded(*install, "torch", cwd=away)
    succeeded(*install, f"{wheel}[cpu]", cwd=away)
    succeeded(environment / "bin" / "python", "-m", "pip", "check", cwd=away)
    (environment / "ready").touch()


@pytest.fixture
def vivavoce(python, tmp_path) -> Callable[..., str]:
    """Runs the command that the wheel installed, outside the checkout; returns what it printed."""
    return lambda *arguments: succeeded(python.with_name("vivavoce"), *arguments, cwd=tmp_path)


def asked(vivavoce: Callable[..., str], *options: object) -> list[dict]:
    recording = COFFEEHOUSE / "questions" / "2-sunday-closing.flac"
    knows = ("--knowledge", COFFEEHOUSE / "handbook", "--persona", COFFEEHOUSE / "persona.json")
    return [json.loads(line) for line in vivavoce("ask", recording, *knows, *options, "--json").splitlines()]


def test_the_wheel_holds_every_file(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file())
    assert packed == {f"vivavoce/{path.relative_to(ROOT)}" for path in files if "__pycache__" not in path.parts}


def test_it_is_installed_without_what_develops_it(python, tmp_path):
    listed = json.loads(succeeded(python, "-m", "pip", "list", "--format=json", cwd=tmp_path))
    names = {one["name"].lower() for one in listed}
    assert {"vivavoce", "faiss-cpu", "torch"} <= names
    assert not names & {"faiss-gpu", "jiwer", "mypy", "peft", "pytest", "ruff"}


def test_its_packages_and_their_data_are_found(python, tmp_path):
    code = """
import json, pathlib
import vivavoce.agent, vivavoce.memory, vivavoce.retrieval, vivavoce.speech
from vivavoce.agent import ReadOut
ReadOut.shipped("smollm2-135m-instruct")
where = pathlib.Path(vivavoce.agent.__file__).parent
print(json.dumps([str(where), sorted(str(path.relative_to(where)) for path in where.glob("data/**/*"))]))
"""
    where, data = json.loads(succeeded(python, "-c", code, cwd=tmp_path))
    assert Path(where).is_relative_to(python.parents[1])
    assert data == sorted(str(path.relative_to(ROOT / "agent")) for path in (ROOT / "agent").glob("data/**/*"))


def test_it_answers_a_recording(vivavoce):
    events = asked(vivavoce, "--no-speech")
    (said,) = (event for event in events if event["event"] == "said")
    assert "5 in the afternoon" in said["text"] and said["sources"] == ["opening-hours.md"]
    assert not any(event["event"] in ("speaking", "spoke") for event in events)


def test_it_speaks_its_answer(vivavoce, tmp_path):
    events = asked(vivavoce, "--out", tmp_path / "answers")
    assert any("5 in the afternoon" in event["text"] for event in events if event["event"] == "said")
    (file,) = (tmp_path / "answers").glob("*.wav")
    assert Audio.read(file).seconds > 1


def test_its_doctor_finds_everything(vivavoce):
    findings = {one["check"]: one for one in map(json.loads, vivavoce("doctor", "--json").splitlines())}
    assert findings["FAISS runs on"]["state"] == "cpu"
    fixes = {check: one["fix"] for check, one in findings.items() if one["fix"] and "models fetch" not in one["fix"]}
    assert fixes.keys() <= {"chromadb", "openai", "openai-whisper", "peft", "sounddevice"}, "extras that cpu has not"


def test_what_it_lacks_is_told_with_the_pip_line(python, tmp_path):
    code = "from vivavoce.agent.evaluation.metrics import errors; errors('one', 'two')"
    done = called(python, "-c", code, cwd=tmp_path)
    assert "pip install 'vivavoce[train]'" in done.stderr.splitlines()[-1]
