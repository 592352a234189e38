"""The command line as a process of its own: Ctrl-C at each stage, and `kill -9` in the middle of a turn.

Nothing here hangs on who is quicker: a process is given more to do than it could get done, or is kept waiting, and what
it may have done until the signal reached it is allowed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from vivavoce.memory import Episode, SQLiteRecord
from vivavoce.retrieval import Store, is_index
from vivavoce.retrieval.index.folder import LOCK
from vivavoce.speech import Audio

pytestmark = pytest.mark.weights

PATIENCE = 300
"""Seconds that a process may take to end: a healthy one takes less than two, but may get next to no processor."""
MANY = 40
"""So often is the same recording heard where a process is not to come to its end: that takes minutes."""


class Command:
    """`vivavoce …` as a process; what it prints is read line by line."""

    def __init__(self, *arguments: object, home: Path | None = None) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if home is not None:
            environment["VIVAVOCE_HOME"] = str(home)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vivavoce.agent", *map(str, arguments)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Where the tests run in the background, a shell has SIGINT ignored, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.events: list[dict] = []

    def type(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def read_until(self, kind: str) -> dict:
        """The next event of a kind."""
        while line := self.process.stdout.readline():
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == kind:
                return self.events[-1]
        raise AssertionError(f"it ended before {kind!r}: {self.process.communicate()[1]}")

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Look again and again; there is nothing to wait on for what another process maps or creates."""
        while not happened():
            assert self.process.poll() is None, f"it ended before that: {self.process.communicate()[1]}"
            time.sleep(0.005)

    def maps(self, library: str) -> bool:
        """Whether it has a file of that name in its memory."""
        return library in Path(f"/proc/{self.process.pid}/maps").read_text()

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; the exit code and what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        self.events += [json.loads(line) for line in out.splitlines() if line.endswith("}")]
        return self.process.returncode, err


@pytest.fixture
def run() -> Iterator[Callable[..., Command]]:
    """Starts commands, and leaves none behind."""
    started: list[Command] = []

    def start(*arguments: object, home: Path | None = None) -> Command:
        started.append(Command(*arguments, home=home))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.communicate()


def stopped(ended: tuple[int, str]) -> None:
    code, err = ended
    assert code == 130, err
    assert err.splitlines()[-1:] == ["Stopped."] and "Traceback" not in err and "Error" not in err, err


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------


def check_answers(command: Command, folder: Path) -> list[str]:
    """That all answers are whole, and that those that were announced are there; the last may not have been any more."""
    answers = files_in(folder)
    assert all(name.endswith(".wav") and Audio.read(folder / name).seconds > 1 for name in answers)
    announced = [Path(event["path"]).name for event in command.events if event["event"] == "spoke"]
    assert answers[: len(announced)] == announced and len(answers) <= len(announced) + 1
    return answers


def test_while_loading(run, coffeehouse, whisper_dir, llm_dir, minilm_dir, tmp_path):
    recordings = MANY * [coffeehouse / "questions" / "9-small-talk.flac"]
    command = run("ask", *recordings, "--knowledge", coffeehouse / "handbook", "--out", tmp_path / "answers", "--json")
    command.wait_for(lambda: command.maps("libtorch_cpu"))
    stopped(command.interrupt())
    assert len(check_answers(command, tmp_path / "answers")) < MANY


def test_while_transcribing(run, coffeehouse, whisper_dir, tmp_path):
    recordings = sorted((coffeehouse / "questions").glob("*.flac"))
    out = tmp_path / "heard.jsonl"
    out.write_text("what was there before\n")
    command = run("transcribe", *(MANY * recordings), "--out", out)
    command.wait_for(lambda: len(files_in(tmp_path)) > 1)  # the file that will take the place of the old one
    stopped(command.interrupt())
    assert files_in(tmp_path) == ["heard.jsonl"] and out.read_text() == "what was there before\n"


@pytest.mark.parametrize("stage", ["heard", "decided", "said"])
def test_while_answering(run, coffeehouse, whisper_dir, llm_dir, tmp_path, stage):
    recordings = MANY * sorted((coffeehouse / "questions").glob("*order*.flac"))
    command = run("ask", *recordings, "--out", tmp_path / "answers", "--json")
    command.read_until(stage)
    stopped(command.interrupt())
    assert len(check_answers(command, tmp_path / "answers")) < len(recordings), "it did not go on to the end"


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_while_indexing(run, coffeehouse, minilm_dir, tmp_path, existing):
    """An index is made first, then filled. Until documents are committed, there is what was there before."""
    index, pages = tmp_path / "index", tmp_path / "pages"
    index.mkdir()
    pages.mkdir()
    (pages / "milk.md").write_text("Oat milk is free.")
    if existing:
        code, err = run("index", pages, "--out", index).end()
        assert code == 0, err
    with FileLock(index / LOCK):  # whoever wants to write waits
        command = run("index", coffeehouse / "handbook", "--out", index)
        command.wait_for(lambda: command.maps("model.safetensors"))
        stopped(command.interrupt())
    assert documents_of(index) == (("milk.md",) if existing else None)
    code, err = run("index", pages, "--out", index).end()
    assert code == 0 and documents_of(index) == ("milk.md",), err


def documents_of(index: Path) -> tuple[str, ...] | None:
    """The sources of an index that is whole; None if there is nothing of an index."""
    if not is_index(index):
        assert set(files_in(index)) <= {LOCK}
        return None
    store = Store.open(index, "cpu")
    assert store.problems() == []
    sources = store.sources
    store.close()
    return sources


def test_while_nobody_types(run, llm_dir, tmp_path):
    command = run("chat", "--text", "--thread", "anna", "--json", home=tmp_path)
    command.type("Hello, how are you today?")
    ended = command.read_until("turn_ended")
    stopped(command.interrupt())
    assert [turn.turn_id for turn in recorded(tmp_path)] == [ended["turn_id"]]


# -- kill -9 --------------------------------------------------------------------------------------------------------


def recorded(home: Path) -> tuple[Episode, ...]:
    with SQLiteRecord(home / "conversations.sqlite") as record:
        return record.history("anna", last=1000)


def test_finished_turns_survive_kill_9(run, llm_dir, tmp_path):
    """A conversation whose process is killed at another moment of its third turn each time."""
    finished: list[str] = []
    for moment in (None, "decided", "said", "turn_ended"):
        command = run("chat", "--text", "--thread", "anna", "--json", home=tmp_path)
        for line in ("Good morning!", "How are you?"):
            command.type(f"{line} It is round {moment}.")
            command.read_until("turn_ended")
        command.type("I would like a cup of tea.")
        if moment is not None:
            command.read_until(moment)
        command.kill()
        finished += [event["turn_id"] for event in command.events if event["event"] == "turn_ended"]
        there = [turn.turn_id for turn in recorded(tmp_path)]
        assert len(there) == len(set(there)), "every turn is there once"
        assert [turn_id for turn_id in there if turn_id in finished] == finished, "and every finished one, in order"
        unfinished = [turn for turn in recorded(tmp_path) if turn.turn_id not in finished]
        # The signal may have reached it when that turn was said and kept, but not told yet.
        assert [turn.turn_id for turn in unfinished] in ([], there[-1:])
        finished = there
    command = run("ask", "Thank you very much!", "--thread", "anna", "--no-speech", "--json", home=tmp_path)
    code, err = command.end()
    assert code == 0, err
    assert [event["event"] for event in command.events] == ["heard", "decided", "said", "turn_ended"]
    assert [turn.turn_id for turn in recorded(tmp_path)] == [*finished, command.events[-1]["turn_id"]]
