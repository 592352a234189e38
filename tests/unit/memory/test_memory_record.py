"""The record of turns: what was recorded is there, once, in order, whatever happens to the process or the file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vivavoce.memory import Episode, RecordBusy, RecordCorrupt, RecordError, SQLiteRecord
from vivavoce.memory.testing import ListRecord, check_record


def episode(number: int, thread: str = "anna", **details) -> Episode:
    return Episode(f"{thread}-{number}", thread, f"heard {number}", f"said {number}", float(number), details)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.sqlite"


@pytest.mark.parametrize("where", ["file", ":memory:"])
def test_sqlite_keeps_the_contract(path, where):
    with SQLiteRecord(path if where == "file" else where) as record:
        check_record(record)


def test_the_fake_keeps_the_contract():
    check_record(ListRecord())


@pytest.mark.parametrize("broken", ["order", "copies", "threads", "negative"])
def test_the_contract_finds_a_broken_record(broken):
    class Broken(ListRecord):
        def remember(self, episode):
            super().remember(episode)
            if broken == "copies":
                self._episodes[f"{len(self._episodes)}"] = episode

        def history(self, thread_id, last=8):
            turns = super().history(thread_id, max(last, 0) if broken == "negative" else last)
            if broken == "threads":
                turns = tuple(self._episodes.values())
            return turns[::-1] if broken == "order" else turns

    with pytest.raises(AssertionError, match=r"order|once|apart|negative"):
        check_record(Broken())


def test_turns_survive_a_restart(path):
    with SQLiteRecord(path) as record:
        record.remember(episode(1, sources=["wifi.md"], probability=0.25))
    with SQLiteRecord(path) as record:
        record.remember(episode(2))
        assert record.history("anna") == (episode(1, sources=["wifi.md"], probability=0.25), episode(2))


def test_awkward_text_comes_back_as_it_was(path):
    awkward = Episode(
        "'; DROP TABLE turns; --", "ümlaut \n ☕", "naïve \0 café 拿铁", "", 0.0, {"ключ": [None, 1.5, "ü"]}
    )
    with SQLiteRecord(path) as record:
        record.remember(awkward)
        assert record.history("ümlaut \n ☕") == (awkward,)


def test_threads_are_listed_with_the_newest_first(path):
    with SQLiteRecord(path) as record:
        assert record.threads() == ()
        for number, thread in enumerate(("anna", "ben", "anna")):
            record.remember(episode(number, thread))
        assert record.threads() == ("anna", "ben")


def test_a_negative_last_is_refused(path):
    with SQLiteRecord(path) as record, pytest.raises(ValueError, match="0 or more"):
        record.history("anna", last=-1)


def test_missing_folders_are_made(tmp_path):
    with SQLiteRecord(tmp_path / "a" / "b" / "record.sqlite") as record:
        record.remember(episode(1))
    assert (tmp_path / "a" / "b" / "record.sqlite").is_file()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecordError, match=r"file.*Name a file that can be written") as caught:
        SQLiteRecord(tmp_path / "file" / "record.sqlite")
    assert caught.value.stage == "open" and not caught.value.retryable


def test_a_text_file_is_no_record(path):
    path.write_text("These are my notes, keep them.\n" * 100)
    with pytest.raises(RecordCorrupt, match="no record of conversations"):
        SQLiteRecord(path)
    assert path.read_text().startswith("These are my notes")


def test_another_programs_database_is_left_alone(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE turns (a)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(RecordCorrupt, match="another program"):
        SQLiteRecord(path)
    assert path.read_bytes() == before


def test_a_newer_format_asks_for_an_upgrade(path):
    SQLiteRecord(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RecordError, match=r"newer vivavoce.*upgrade"):
        SQLiteRecord(path)


def test_a_damaged_record_says_what_to_do(path):
    with SQLiteRecord(path) as record:
        for number in range(5):
            record.remember(episode(number))
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with SQLiteRecord(path) as record, pytest.raises(RecordCorrupt, match="move it away, or restore") as caught:
        record.history("anna")
    assert caught.value.stage == "recall"


def test_a_file_locked_by_another_process_is_worth_a_retry(path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **{**options, "timeout": 0.05}))
    with SQLiteRecord(path) as record:
        other = connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordBusy, match="another process") as caught:
            record.remember(episode(1))
        assert caught.value.retryable and caught.value.stage == "remember"
        other.execute("ROLLBACK")
        other.close()
        record.remember(episode(1))
        assert record.history("anna") == (episode(1),)


@pytest.mark.parametrize(
    "odd",
    [{"heard": None}, {"heard": {"text": "hello"}}, {"said": "half a sign: \ud83d"}, {"details": {"set": {1, 2}}}],
)
def test_a_turn_that_cannot_be_kept_is_refused_not_lost(path, odd):
    with SQLiteRecord(path) as record:
        with pytest.raises(RecordError, match=r"cannot keep this turn|no JSON") as caught:
            record.remember(dataclasses.replace(episode(1), **odd))
        assert caught.value.stage == "remember" and not isinstance(caught.value, RecordCorrupt)
        record.remember(episode(2))
        assert record.history("anna") == (episode(2),)


def test_damaged_details_are_told(path):
    with SQLiteRecord(path) as record:
        record.remember(episode(1))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE turns SET details = '{'")
    connection.close()
    with SQLiteRecord(path) as record, pytest.raises(RecordCorrupt, match="move it away, or restore"):
        record.history("anna")


def test_a_closed_record_raises_its_own_error(path):
    record = SQLiteRecord(path)
    record.close()
    record.close()
    with pytest.raises(RecordError, match="closed") as caught:
        record.remember(episode(1))
    assert not isinstance(caught.value, RecordCorrupt)


def test_threads_and_records_of_one_file_write_side_by_side(path):
    with SQLiteRecord(path) as one, SQLiteRecord(path) as other, ThreadPoolExecutor(4) as pool:
        start = threading.Barrier(4)

        def write(worker: int) -> None:
            start.wait()
            for number in range(10):
                (one, other)[worker % 2].remember(episode(number, f"thread-{worker}"))

        list(pool.map(write, range(4)))
        for worker in range(4):
            assert one.history(f"thread-{worker}", last=99) == tuple(episode(n, f"thread-{worker}") for n in range(10))


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path):
    start = threading.Barrier(4)

    def write(worker: int) -> None:
        start.wait()
        with SQLiteRecord(path) as record:
            record.remember(episode(worker))

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(10):
            path = tmp_path / f"{attempt}.sqlite"
            list(pool.map(write, range(4)))
            with SQLiteRecord(path) as record:
                assert {turn.turn_id for turn in record.history("anna")} == {f"anna-{worker}" for worker in range(4)}


def test_what_was_recorded_survives_kill_9(path, tmp_path):
    code = (
        "import sys\n"
        "from vivavoce.memory import Episode, SQLiteRecord\n"
        "record = SQLiteRecord(sys.argv[1])\n"
        "for n in range(1000):\n"
        "    record.remember(Episode(f'anna-{n}', 'anna', f'heard {n}', f'said {n}', float(n)))\n"
        "    sys.stdout.write(f'{n}\\n'); sys.stdout.flush()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    with writer:
        told = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout if line.endswith("\n")]
    # What a crash leaves is a file and its write-ahead log; both are moved, as a backup would.
    for file in path.parent.glob("record.sqlite*"):
        shutil.move(file, tmp_path / file.name.replace("record", "moved"))
    with SQLiteRecord(tmp_path / "moved.sqlite") as record:
        found = record.history("anna", last=2000)
        assert len(found) in (len(told), len(told) + 1)  # the last one may have been recorded and not yet told
        assert found == tuple(episode(number) for number in range(len(found)))
        record.remember(episode(5000))
        assert record.history("anna", last=1) == (episode(5000),)
