import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from vivavoce.retrieval import (
    Changes,
    DimensionMismatch,
    Document,
    EmbedderMismatch,
    IndexCorrupt,
    IndexNotFound,
    LocalKnowledge,
    StoreError,
    is_index,
    read_manifest,
)
from vivavoce.retrieval.index.folder import LOCK
from vivavoce.retrieval.testing import HashEmbedder

OLD = [Document("old.md", "# Old\n\nOat milk is free."), Document("b.md", "Tea.")]
NEW = [Document("new.md", "# New\n\nOat milk costs sixty cents.")]


def save(documents, path):
    with LocalKnowledge.from_documents(documents, HashEmbedder()) as made:
        made.save(path)


def first_source(path):
    with LocalKnowledge.open(path, HashEmbedder()) as opened:
        return opened.search("oat milk")[0].source


def listing(path):
    """All that is there, but for the lock, which may stay behind."""
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.name != LOCK)


def has_one_generation(path):
    return set(os.listdir(path)) - {LOCK} == {"manifest.json", read_manifest(path).generation}


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "handbook #1 100%.index"  # characters that mean something in a URI
    save(OLD, path)
    return path


def test_saved_and_opened_finds_the_same(tmp_path):
    with LocalKnowledge.from_documents(OLD, HashEmbedder()) as made:
        made.save(tmp_path / "deep" / "index")
        with LocalKnowledge.open(tmp_path / "deep" / "index", HashEmbedder()) as opened:
            assert opened.search("is oat milk free") == made.search("is oat milk free")
            assert (len(opened), opened.sources) == (len(made), made.sources) == (2, ("b.md", "old.md"))


def test_folder_holds_one_generation_and_says_what_it_is(index):
    manifest = read_manifest(index)
    assert is_index(index) and not is_index(index.parent)
    assert (manifest.embedder, manifest.fingerprint, manifest.dim) == ("hash", "hash-256", 256)
    files = [f"{manifest.generation}/{name}" for name in ("passages.sqlite", "vectors.f32")]
    assert listing(index) == sorted(["manifest.json", manifest.generation, *files])
    assert (index / files[1]).stat().st_size == 2 * 256 * 4


def test_open_readers_turn_to_what_replaces_the_index_and_no_old_files_are_left(index):
    with LocalKnowledge.open(index, HashEmbedder()) as reader:
        assert reader.search("oat milk")[0].source == "old.md"
        save(NEW, index)
        assert reader.search("oat milk")[0].source == "new.md"
        shutil.rmtree(index)  # and what is open outlives its folder
        assert reader.search("oat milk")[0].source == "new.md"
    save(NEW, index)
    assert first_source(index) == "new.md"
    assert has_one_generation(index)


def test_an_index_of_another_embedder_in_its_place_is_not_turned_to(index):
    with LocalKnowledge.open(index, HashEmbedder()) as reader:
        with LocalKnowledge.from_documents(NEW, HashEmbedder(64)) as other:
            other.save(index)
        assert reader.search("oat milk")[0].source == "old.md"


def test_a_large_index_in_a_quarter_of_the_memory_is_the_same_on_disk(index, monkeypatch, tmp_path):
    monkeypatch.setattr("vivavoce.retrieval.index.vectors.LEAST", 10)
    with LocalKnowledge.open(index, HashEmbedder(), precision="int8") as small:
        with LocalKnowledge.open(index, HashEmbedder()) as exact:
            one, other = small.search("When do you open?"), exact.search("When do you open?")
            assert [passage.id for passage in one] == [passage.id for passage in other]
            assert [passage.score for passage in one] == pytest.approx([passage.score for passage in other], abs=0.01)
            assert np.array_equal(small.vectors(one), exact.vectors(one))
            before = exact.vectors(exact.get())
            held = small._store.index
            exact.compact()
            assert np.array_equal(held.vectors(held.rows), before), "its file is gone, but it is still open"
        assert small.upsert(NEW).added == 1 and small.delete(["new.md"]) == 1
        small.compact()
        small.save(tmp_path / "copy")
    with LocalKnowledge.open(tmp_path / "copy", HashEmbedder()) as copy:
        assert np.array_equal(copy.vectors(copy.get()), before) and copy.problems() == []


def test_an_opened_index_can_be_saved_over_itself(index):
    with LocalKnowledge.open(index, HashEmbedder()) as opened:
        opened.save(index)
        assert opened.search("oat milk")[0].source == "old.md"
    assert first_source(index) == "old.md"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("passages.sqlite", "truncated"),
        ("passages.sqlite", "missing"),
        ("passages.sqlite", "damaged"),
        ("vectors.f32", "truncated"),
        ("vectors.f32", "missing"),
        ("vectors.f32", "changed"),
    ],
)
def test_damage_names_the_file_and_the_fix(index, name, damage):
    file = index / read_manifest(index).generation / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[3 if damage == "damaged" else len(data) // 2] ^= 1
        file.write_bytes(data[:-10] if damage == "truncated" else data)
    with pytest.raises(IndexCorrupt, match=rf"{name} .*{damage}.*vivavoce index DIR --out") as error:
        LocalKnowledge.open(index, HashEmbedder())
    assert error.value.stage == "open" and not error.value.retryable
    save(NEW, index)  # and the fix works
    assert first_source(index) == "new.md"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text[:-20],
        lambda text: text.replace('"dim": 256', '"dim": 257'),
        lambda text: text.replace('"version": 3', '"version": 9'),
    ],
    ids=["empty", "list", "other json", "truncated", "flipped", "newer"],
)
def test_a_damaged_manifest_is_told(index, damage):
    file = index / "manifest.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(IndexCorrupt, match=r"manifest\.json.*vivavoce index DIR --out"):
        LocalKnowledge.open(index, HashEmbedder())
    save(NEW, index)
    assert first_source(index) == "new.md"
    assert has_one_generation(index)


def test_no_index_there(tmp_path):
    with pytest.raises(IndexNotFound, match="vivavoce index DIR --out"):
        LocalKnowledge.open(tmp_path, HashEmbedder())
    with pytest.raises(IndexNotFound):
        LocalKnowledge.open(tmp_path / "nowhere", HashEmbedder())


def test_another_embedder_is_refused(index):
    other = HashEmbedder()
    other.name, other.fingerprint = "other", "other-256"
    for embedder in (other, HashEmbedder(64)):
        with pytest.raises(EmbedderMismatch, match=r"'hash', 256 dimensions.*vivavoce index DIR --out"):
            LocalKnowledge.open(index, embedder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.md").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        save(OLD, tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        save(OLD, tmp_path / "thesis.md")
    assert listing(tmp_path) == ["thesis.md"]


def test_foreign_files_in_an_index_stay(index):
    (index / "notes.txt").write_text("mine")
    save(NEW, index)
    assert (index / "notes.txt").read_text() == "mine"
    assert first_source(index) == "new.md"


@pytest.mark.parametrize("existing", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("step", ["store.sync_folder", "store.swap_manifest", "folder.asdict"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["ctrl-c", "full"])
def test_an_interrupted_write_leaves_things_as_they_were(tmp_path, monkeypatch, existing, step, error):
    path = tmp_path / "index"
    if existing:
        save(OLD, path)
    before = listing(tmp_path)

    def fail(*_args):
        raise error

    made = LocalKnowledge.from_documents(NEW, HashEmbedder())
    with monkeypatch.context() as patch:
        patch.setattr(f"vivavoce.retrieval.index.{step}", fail)
        with made, pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else StoreError) as raised:
            made.save(path)
    if isinstance(raised.value, StoreError):
        assert raised.value.stage == "save" and raised.value.retryable
        assert "No space left" in str(raised.value)
    assert listing(tmp_path) == before
    if existing:
        assert first_source(path) == "old.md"
    save(NEW, path)
    assert first_source(path) == "new.md"


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"could not be written to .*index"):
        save(OLD, tmp_path / "file" / "index")
    assert listing(tmp_path) == ["file"]


WRITER = """
import sys
from pathlib import Path
from vivavoce.retrieval import Document, LocalKnowledge
from vivavoce.retrieval.testing import HashEmbedder

path, round = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    pages = [Document(f"{n}.md", f"Oat milk, round {round}, page {n}.", metadata={"round": round}) for n in range(40)]
    with LocalKnowledge.from_documents(pages, HashEmbedder()) as made:
        made.save(path)
    round += 1
"""


def test_kill_at_any_point_leaves_a_whole_index(tmp_path):
    path = tmp_path / "index"
    save(OLD, path)
    writers = []
    try:
        for round_ in range(4):
            # Two at once: they take turns.
            writers = [
                subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) for _ in "ab"
            ]
            for writer in writers:
                assert writer.stdout.readline() == b"ready\n"
            until = time.monotonic() + 0.1 + 0.037 * round_
            while time.monotonic() < until:
                check_whole(path)
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                writer.stdout.close()
            check_whole(path)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    save(NEW, path)
    assert first_source(path) == "new.md"
    assert has_one_generation(path)


def check_whole(path: Path) -> None:
    with LocalKnowledge.open(path, HashEmbedder()) as opened:
        found = opened.search("oat milk page", 50)
        rounds = {passage.metadata.get("round") for passage in found if passage.metadata}
        assert len(found) in (2, 40) and len(rounds) <= 1


def test_manifest_is_json_for_people(index):
    content = json.loads((index / "manifest.json").read_text())
    assert content["format"] == "vivavoce-index" and content["version"] == 3


# --- changes ----------------------------------------------------------------------------------------------------------


class CountingEmbedder(HashEmbedder):
    def __init__(self):
        super().__init__()
        self.read = []

    def embed(self, texts, *, kind="passage"):
        if kind == "passage":
            self.read += texts
        return super().embed(texts, kind=kind)


@pytest.fixture(params=["memory", "disk"])
def made(request, tmp_path):
    if request.param == "disk":
        opened = LocalKnowledge.create(tmp_path / "index", CountingEmbedder())
        opened.upsert(OLD)
    else:
        opened = LocalKnowledge.from_documents(OLD, CountingEmbedder())
    with opened:
        yield opened


def found(knowledge, query):
    return [passage.source for passage in knowledge.search(query)]


def test_what_is_put_in_is_found_and_what_is_taken_out_is_not(made):
    assert made.upsert(NEW) == Changes(added=1, embedded=1)
    assert set(found(made, "oat milk")) == {"old.md", "new.md", "b.md"} and len(made) == 3
    assert made.delete(["old.md", "nowhere.md"]) == 1
    assert "old.md" not in found(made, "oat milk free") and len(made) == 2
    assert made.sources == ("b.md", "new.md")
    assert made.delete(where={"source": "b.md"}) == 1 and made.sources == ("new.md",)
    assert made.upsert(OLD) == Changes(added=2, embedded=2)
    assert found(made, "oat milk free")[0] == "old.md"
    assert made.problems() == []
    with pytest.raises(ValueError, match="which"):
        made.delete()


def test_only_what_changed_is_embedded(made):
    page = "# Prices\n\n## Tea\n\nTea costs two.\n\n## Milk\n\nOat milk is free."
    made.upsert([Document("prices.md", page)])
    made.embedder.read.clear()
    assert made.upsert([*OLD, Document("prices.md", page)]) == Changes(unchanged=3)
    assert not made.embedder.read
    assert made.upsert([Document("prices.md", page.replace("two", "three"))]) == Changes(updated=1, embedded=1)
    assert len(made.embedder.read) == 1 and "three" in made.embedder.read[0]
    assert made.search("what does tea cost")[0].text.endswith("three.")
    assert not [passage for passage in made.get() if "two" in passage.text]
    kept = made.search("tea three oat milk free", where={"source": "prices.md"})
    assert len(kept) == 2
    for passage in kept:  # spans are those of the new text
        assert page.replace("two", "three")[slice(*passage.span)] == passage.text
    assert made.upsert([Document("prices.md", page.replace("two", "three"), metadata={"year": 3})]).updated == 1
    assert len(made.embedder.read) == 1 and made.values("year") == (3,)
    assert made.problems() == []


def test_vectors_of_ones_own_are_kept(made):
    documents = [Document(f"{n}.txt", f"Note {n}.", "text") for n in range(3)]
    vectors = np.eye(256, dtype=np.float32)[:3]
    assert made.upsert(documents, vectors=vectors) == Changes(added=3)
    with made._store.reading():
        assert np.array_equal(made._store.index.vectors(made._store.table.where({"source": "1.txt"})), vectors[1:2])
    assert made.upsert(documents, vectors=vectors) == Changes(unchanged=3)
    assert made.upsert(documents, vectors=vectors[::-1].copy()) == Changes(updated=2, unchanged=1)
    with pytest.raises(DimensionMismatch, match=r"\(3, 256\)"):
        made.upsert(documents, vectors=vectors[:2])
    assert made.problems() == []


def test_what_cannot_be_put_in_changes_nothing(made):
    before = made.search("oat milk")
    for documents in ([NEW[0], NEW[0]], [Document("c.md", "x", metadata={"when": object()})]):
        with pytest.raises(Exception, match=r"same source|plain JSON"):
            made.upsert(documents)
    assert made.search("oat milk") == before and made.sources == ("b.md", "old.md")
    assert made.upsert(NEW).added == 1 and made.problems() == []


def test_get_pages_through_what_is_known(made):
    made.upsert([Document(f"{n}.md", f"Page {n}.", metadata={"even": n % 2 == 0}) for n in range(6)])
    assert [passage.source for passage in made.get(where={"even": True})] == ["0.md", "2.md", "4.md"]
    assert [passage.source for passage in made.get(["5.md", "2.md"], limit=1, offset=1)] == ["5.md"]
    assert len(made.get()) == 8
    with pytest.raises(ValueError, match="negative"):
        made.get(limit=-1)


def test_a_folder_is_followed(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.md").write_text(f"Page {number} tells of tea.")
    embedder = CountingEmbedder()
    with LocalKnowledge.create(tmp_path / "index", embedder) as made:
        assert made.update_from_folder(folder) == Changes(added=5, embedded=5)
        (folder / "1.md").write_text("Page 1 tells of coffee.")
        (folder / "2.md").unlink()
        (folder / "3.md").write_bytes(b"\xff\xfe\x00")  # cannot be read at the moment: what was known stays
        (folder / "9.md").write_text("Page 9 is new.")
        skipped = []
        done = made.update_from_folder(folder, on_skip=skipped.append)
        assert done == Changes(added=1, updated=1, unchanged=2, removed=1, embedded=2)
        assert [one.source for one in skipped] == ["3.md"]
        assert made.sources == ("0.md", "1.md", "3.md", "4.md", "9.md")
        assert made.update_from_folder(folder) == Changes(unchanged=4)


def test_work_that_is_broken_off_goes_on(tmp_path):
    documents = [Document(f"{n}.md", f"Page {n} tells of tea.") for n in range(1500)]
    embedder = CountingEmbedder()

    def stop(done, total):
        if done > 1100:
            raise KeyboardInterrupt

    with LocalKnowledge.create(tmp_path / "index", embedder) as made:
        with pytest.raises(KeyboardInterrupt):
            made.upsert(documents, progress=stop)
        assert len(made) == 1024
    embedder.read.clear()
    with LocalKnowledge.open(tmp_path / "index", embedder) as made:
        assert made.upsert(documents) == Changes(added=1500 - 1024, unchanged=1024, embedded=1500 - 1024)
        assert len(embedder.read) == 1500 - 1024 and made.problems() == []


def test_compacting_takes_away_what_was_removed_and_nobody_notices(index):
    with LocalKnowledge.open(index, HashEmbedder()) as made, LocalKnowledge.open(index, HashEmbedder()) as reader:
        made.upsert([Document(f"{n}.md", f"Page {n} on oat milk.") for n in range(50)])
        made.delete([f"{n}.md" for n in range(45)])
        before = reader.search("oat milk page", 20)
        stats = made.stats()
        assert (stats.documents, stats.passages, stats.removed) == (7, 7, 45)
        made.compact()
        assert made.stats().removed == 0 and made.stats().bytes < stats.bytes
        assert reader.search("oat milk page", 20) == before == made.search("oat milk page", 20)
        made.upsert(NEW)
        assert reader.search("oat milk costs")[0].source == "new.md"
        assert made.problems() == [] and has_one_generation(index)
    with LocalKnowledge.from_documents(NEW, HashEmbedder()) as made, pytest.raises(StoreError, match="save it"):
        made.compact()


# --- several processes ------------------------------------------------------------------------------------------------

CHANGER = """
import random, sys
from pathlib import Path
from vivavoce.retrieval import Document, LocalKnowledge
from vivavoce.retrieval.testing import HashEmbedder

path, name = Path(sys.argv[1]), sys.argv[2]
knowledge = LocalKnowledge.open(path, HashEmbedder())
rng = random.Random(name)
number = 0
print("ready", flush=True)
while True:
    # Three pages that belong together: all of them are there, in one version, or none is.
    group = rng.randrange(8)
    made = [f"{name}-{group}-{part}.md" for part in range(3)]
    if rng.random() < 0.2:
        knowledge.delete(made)
        print(f"gone {group}", flush=True)
    else:
        number += 1
        text = f"Group {group} of {name} says oat milk, version {number}."
        knowledge.upsert([Document(one, text, metadata={"version": number}) for one in made])
        print(f"put {group} {number}", flush=True)
    if rng.random() < 0.03:
        knowledge.compact()
"""


def check_groups(knowledge):
    """That nothing half-written is there."""
    groups = {}
    for passage in knowledge.get(where={"version": {"$gte": 0}}):
        groups.setdefault(passage.source.rpartition("-")[0], []).append(passage.metadata["version"])
        assert f"version {passage.metadata['version']}." in passage.text
    assert all(len(versions) == 3 and len(set(versions)) == 1 for versions in groups.values()), groups
    return {group: versions[0] for group, versions in groups.items()}


def start_changer(path, name):
    return subprocess.Popen([sys.executable, "-c", CHANGER, str(path), name], stdout=subprocess.PIPE, text=True)


def test_killed_writers_lose_nothing_that_was_committed_and_leave_nothing_half_written(index):
    kill = np.random.default_rng(0)
    with LocalKnowledge.open(index, HashEmbedder()) as one, LocalKnowledge.open(index, HashEmbedder()) as other:
        for round_ in range(6):
            writer = start_changer(index, f"w{round_}")
            try:
                assert writer.stdout.readline() == "ready\n"
                until = time.monotonic() + kill.uniform(0.05, 0.6)
                while time.monotonic() < until:
                    check_groups(one)
                    check_groups(other)
            finally:
                writer.send_signal(signal.SIGKILL)
                told, _ = writer.communicate()
            committed = {}
            for line in told.splitlines():
                verb, group, *version = line.split()
                committed[f"w{round_}-{group}"] = int(version[0]) if verb == "put" else None
            last = told.splitlines()[-1].split()[1] if told.strip() else None
            for knowledge in (one, other):
                there = check_groups(knowledge)
                for group, version in committed.items():
                    now = there.get(group)
                    # What it was at when it was killed may have been committed without being told.
                    assert now == version or now is None or (now or 0) > (version or 0), (group, now, version, last)
                assert {"b.md", "old.md"} <= set(knowledge.sources)
        one.upsert(NEW)
        assert other.search("oat milk costs")[0].source == "new.md"
        assert one.problems() == []
    assert has_one_generation(index)


def test_two_writers_take_turns(index):
    writers = [start_changer(index, name) for name in "ab"]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        time.sleep(1)
    finally:
        told = []
        for writer in writers:
            writer.kill()
            told.append(writer.communicate()[0].splitlines())
    assert all(len(lines) > 3 for lines in told)
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        check_groups(made)
        assert made.problems() == []


def test_what_a_killed_writer_left_is_no_problem_and_the_next_one_sweeps_it(index):
    (index / "generation-0123456789ab").mkdir()
    (index / "generation-0123456789ab" / "vectors.f32").write_bytes(b"half")
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        assert made.problems() == []
        made.upsert(NEW)
    assert has_one_generation(index)


@pytest.mark.parametrize(
    "name", ["generation-photos", "generation-0123456789ab", "generation-0123456789abc", "generation-0123456789AB"]
)
@pytest.mark.parametrize("file", ["beach.jpg", "vectors.f32", "passages.sqlite/notes.txt", None])
def test_folders_that_are_not_provably_of_an_index_stay(index, tmp_path, name, file):
    ours = name == "generation-0123456789ab" and file in ("vectors.f32", None)
    for root in (index, tmp_path / "other"):
        place = root / name / (file or "")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("mine") if file else place.mkdir()
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        assert made.problems() == ([] if ours else [f"{index / name} is no part of the index"])
        made.upsert(NEW)
        made.compact()
    assert (index / name).exists() == (not ours)
    if not ours:  # nor is a folder taken for an index because of one
        before = listing(tmp_path / "other")
        with pytest.raises(StoreError, match="holds other files"):
            save(NEW, tmp_path / "other")
        assert listing(tmp_path / "other") == before and not (tmp_path / "other" / LOCK).exists()


def test_a_link_that_is_called_like_a_generation_stays(index, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vectors.f32").write_text("mine")
    (index / "generation-0123456789ab").symlink_to(tmp_path / "mine")
    save(NEW, index)
    assert (index / "generation-0123456789ab" / "vectors.f32").read_text() == "mine"


def test_a_writer_that_waits_too_long_says_so(index, monkeypatch):
    monkeypatch.setattr("vivavoce.retrieval.index.folder.WAIT", 0.05)
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        with FileLock(index / LOCK):
            with pytest.raises(StoreError, match="Another process") as error:
                made.upsert(NEW)
            assert error.value.retryable and made.sources == ("b.md", "old.md")
        assert made.upsert(NEW).added == 1


def test_nothing_needs_what_windows_lacks():
    code = "import sys; sys.modules['fcntl'] = None; import vivavoce.retrieval, vivavoce.agent.weights, vivavoce.memory"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


HOLDER = """
import sys
from pathlib import Path
from vivavoce.retrieval.index.folder import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_system_lets_go_of_the_lock_of_a_killed_writer(index):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, index], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder, LocalKnowledge.open(index, HashEmbedder()) as made:
        assert holder.stdout.readline() == b"held\n"
        assert not can_lock(index) and made.sources == ("b.md", "old.md"), "readers are not disturbed"
        holder.kill()
        holder.wait()
        assert made.upsert(NEW).added == 1 and made.problems() == []


def can_lock(root):
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True


class Watched:
    """A store's lock that says who is about to take it, and who has it."""

    def __init__(self, before, after):
        self._lock, self._before, self._after = threading.RLock(), before, after

    def __enter__(self):
        self._before()
        self._lock.acquire()
        self._after()

    def __exit__(self, *raised):
        self._lock.release()


def test_writing_over_an_open_index_and_changing_it_do_not_wait_for_each_other(index, monkeypatch):
    monkeypatch.setattr("vivavoce.retrieval.index.folder.WAIT", 1.0)
    changing, has_lock, wants_lock = threading.Event(), threading.Event(), threading.Event()
    failures = []

    def before():
        if threading.current_thread() is saver:
            wants_lock.set()

    def after():
        if threading.current_thread() is changer and changing.is_set() and not has_lock.is_set():
            has_lock.set()
            if can_lock(index):  # the folder's lock comes second: let the other one take it first
                wants_lock.wait()

    def run(work, *arguments):
        try:
            work(*arguments)
        except StoreError as error:
            failures.append(error)

    with LocalKnowledge.open(index, HashEmbedder()) as made:
        store = made._store
        store._lock = Watched(before, after)
        changer = threading.Thread(target=run, args=(store.replace, ["b.md"]))
        saver = threading.Thread(target=run, args=(made.save, index))
        changing.set()
        changer.start()
        has_lock.wait()
        saver.start()
        changer.join()
        saver.join()
        assert not failures and made.sources == ("old.md",) and made.problems() == []
    assert first_source(index) == "old.md"


def test_who_waits_to_write_lets_others_read(index):
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        turns = made._store._turn
        with FileLock(index / LOCK):
            writer = threading.Thread(target=made.delete, args=(["b.md"],))
            writer.start()
            while not turns.locked():
                time.sleep(0.001)
            for _ in range(100):
                assert made.sources == ("b.md", "old.md")
        writer.join()
        assert made.sources == ("old.md",)


def test_readers_in_threads_see_whole_changes(index):
    failures = []
    with LocalKnowledge.open(index, HashEmbedder()) as made, LocalKnowledge.open(index, HashEmbedder()) as writer:
        writer.upsert([Document(f"{part}.md", "Oat milk 0.", metadata={"version": 0}) for part in range(3)])
        stop = threading.Event()

        def read():
            try:
                while not stop.is_set():
                    versions = {
                        one.metadata["version"] for one in made.search("oat milk", where={"version": {"$gte": 0}})
                    }
                    assert len(versions) == 1, versions
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(1, 40):
            documents = [
                Document(f"{part}.md", f"Oat milk {version}.", metadata={"version": version}) for part in range(3)
            ]
            writer.upsert(documents)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


# --- when things go wrong ---------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(index):
    documents = [Document(f"{n}.md", f"Page {n} on oat milk. " + "word " * 100) for n in range(40)]
    vectors = HashEmbedder().embed([document.text for document in documents])
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        before = made.search("oat milk")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for limit in (2 * 1024 + 100, 30_000, 60_000):  # in the vectors, then in the database
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with pytest.raises(StoreError, match="could not be written") as error:
                    made.upsert(documents, vectors=vectors)
                assert error.value.retryable
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert made.search("oat milk") == before and made.problems() == []
        assert made.upsert(documents, vectors=vectors).added == 40
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        assert len(made) == 42 and made.problems() == []


READER = """
import os, sys
from vivavoce.retrieval import LocalKnowledge, Document, StoreError
from vivavoce.retrieval.testing import HashEmbedder

LocalKnowledge.from_documents([Document("a.md", "Tea.")], HashEmbedder()).search("tea")  # all that is imported late
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with LocalKnowledge.open(sys.argv[1], HashEmbedder()) as made:
    print(*made.sources)
    print(made.search("oat milk")[0].source)
    try:
        made.upsert([Document("mine.md", "Mine.")])
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("log", [False, True], ids=["closed", "killed"])
def test_a_folder_that_cannot_be_written_can_be_read(index, tmp_path, log):
    file = index / read_manifest(index).generation / "passages.sqlite"
    if log:  # a writer that was killed leaves its last commits in the log
        with LocalKnowledge.open(index, HashEmbedder()) as made:
            made.upsert(NEW)
            kept = {one.name: one.read_bytes() for one in file.parent.iterdir() if not one.name.endswith("-shm")}
        for name, data in kept.items():
            (file.parent / name).write_bytes(data)
        assert (file.parent / "passages.sqlite-wal").stat().st_size
    for one in (tmp_path, *tmp_path.parents):
        if one.owner() == "root" and one.name.startswith(("pytest", tmp_path.name)):
            one.chmod(0o755)  # pytest keeps its folders from others
    for one in (index, *index.rglob("*")):
        one.chmod(0o555 if one.is_dir() else 0o444)
    done = subprocess.run([sys.executable, "-c", READER, str(index)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sources, first, refusal = done.stdout.splitlines()
    assert sources.split() == (["b.md", "new.md", "old.md"] if log else ["b.md", "old.md"])
    assert first in ("old.md", "new.md") and "cannot be written" in refusal


def test_a_look_through_names_what_is_wrong(index):
    generation = index / read_manifest(index).generation
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        assert made.problems() == []
        (index / "notes.txt").write_text("mine")
        (generation / "core").write_text("dumped")
        assert [Path(problem.split(" is ")[0]).name for problem in sorted(made.problems(), key=len)] == [
            "notes.txt",
            "core",
        ]
    (index / "notes.txt").unlink()
    (generation / "core").unlink()
    with sqlite3.connect(generation / "passages.sqlite") as database:
        database.execute("UPDATE passages SET text = replace(text, 'free', 'dear')")
    database.close()
    with LocalKnowledge.open(index, HashEmbedder()) as made:
        (problem,) = made.problems()
        assert "old.md#" in problem and "not as it was written" in problem
