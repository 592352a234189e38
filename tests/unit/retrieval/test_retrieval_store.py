import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vivavoce.retrieval import (
    Document,
    EmbedderMismatch,
    IndexCorrupt,
    IndexNotFound,
    LocalKnowledge,
    StoreError,
    is_index,
    read_manifest,
)
from vivavoce.retrieval import store as store_module
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
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


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
    assert (manifest.documents, manifest.passages) == (2, 2)
    assert listing(index) == sorted(
        ["manifest.json", manifest.generation, *(f"{manifest.generation}/{name}" for name in manifest.files)]
    )
    for name, (size, sha256) in manifest.files.items():
        data = (index / manifest.generation / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (size, sha256)


def test_replacing_keeps_open_readers_and_leaves_no_old_files(index):
    with LocalKnowledge.open(index, HashEmbedder()) as reader:
        before = reader.search("oat milk")
        save(NEW, index)
        assert reader.search("oat milk") == before
    assert first_source(index) == "new.md"
    assert len(list(index.iterdir())) == 2


def test_an_opened_index_can_be_saved_over_itself(index):
    with LocalKnowledge.open(index, HashEmbedder()) as opened:
        opened.save(index)
        assert opened.search("oat milk")[0].source == "old.md"
    assert first_source(index) == "old.md"


@pytest.mark.parametrize("name", ["passages.sqlite", "vectors.npy"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damage_names_the_file_and_the_fix(index, name, damage):
    file = index / read_manifest(index).generation / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
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
        lambda text: text.replace('"passages": 2', '"passages": 3'),
        lambda text: text.replace('"version": 2', '"version": 9'),
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
    assert len(list(index.iterdir())) == 2


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
@pytest.mark.parametrize("step", ["_seal", "_sync", "_swap_manifest", "_checksum"])
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
        # The checksum is needed to read the old manifest as well: let it fail while writing only.
        if step == "_checksum":
            patch.setattr(store_module, "asdict", fail)
        else:
            patch.setattr(store_module, step, fail)
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
    assert len(list(path.iterdir())) == 2


def check_whole(path: Path) -> None:
    with LocalKnowledge.open(path, HashEmbedder()) as opened:
        found = opened.search("oat milk page", 50)
        rounds = {passage.metadata.get("round") for passage in found if passage.metadata}
        assert len(found) in (2, 40) and len(rounds) <= 1


def test_manifest_is_json_for_people(index):
    content = json.loads((index / "manifest.json").read_text())
    assert content["format"] == "vivavoce-index" and content["version"] == 2
