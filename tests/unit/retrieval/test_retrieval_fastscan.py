import sqlite3

import faiss
import numpy as np
import pytest

from vivavoce.retrieval import Document, LocalKnowledge, VectorIndex, read_manifest
from vivavoce.retrieval.index import vectors as index_module
from vivavoce.retrieval.index.fastscan import FastScan

DIM = 64


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(50, DIM))
    vectors = (centres[rng.integers(0, 50, n)] + rng.normal(size=(n, DIM))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recall(index, queries, vectors, rows, k=10):
    truth = rows[np.argsort(-(queries @ vectors.T), axis=1)[:, :k]]
    hits = index.search(queries, k)
    assert np.allclose(hits.scores, np.sort(hits.scores)[:, ::-1])
    return np.mean([np.isin(wanted, found).mean() for wanted, found in zip(truth, hits.rows, strict=True)])


@pytest.fixture
def index():
    index = VectorIndex(DIM, device="cpu")
    index.add(clustered(4000))
    assert index.tune(least=1000) and index.quick is not None
    return index


def test_codes_find_what_a_whole_scan_finds_with_exact_scores(index):
    vectors, queries = clustered(4000), clustered(50, seed=1)
    assert recall(index, queries, vectors, np.arange(4000)) >= 0.99
    hits = index.search(queries, 5)
    assert np.allclose(hits.scores, np.take_along_axis(queries @ vectors.T, hits.rows, axis=1), atol=1e-5)
    assert recall(index, queries, vectors, np.arange(4000), k=100) >= 0.97
    assert index.search(queries, 4000).rows.shape == (50, 4000)  # all of them: a whole scan


def test_what_is_added_and_removed_later_is_known(index):
    more, queries = clustered(500, seed=2), clustered(50, seed=1)
    index.add(more)
    gone = np.arange(0, 4500, 7)
    index.remove(gone)
    kept = np.setdiff1d(np.arange(4500), gone)
    vectors = np.concatenate([clustered(4000), more])[kept]
    assert recall(index, queries, vectors, kept) >= 0.99
    assert not np.isin(index.search(queries, 50).rows, gone).any()
    assert index.search(more[1:2], 1).rows[0, 0] == 4001
    assert index.quick.lost == len(gone)


def test_codes_are_made_anew_when_most_has_changed(index):
    assert not index.tune(least=1000)
    before = index.quick
    index.remove(np.arange(1500))
    assert index.tune(least=1000) and index.quick is not before and index.quick.lost == 0
    index.add(clustered(12_000, seed=3))
    assert index.tune(least=1000) and index.quick.trained == len(index) == 14_500


def test_few_vectors_and_odd_dimensions_are_scanned_whole():
    index = VectorIndex(DIM)
    index.add(clustered(900))
    assert not index.tune(least=1000) and index.quick is None
    odd = VectorIndex(10)
    odd.add(np.eye(10, dtype=np.float32).repeat(200, axis=0))
    odd.tune(least=1000)
    assert odd.quick is None and odd.search(np.eye(10, dtype=np.float32)[:1], 1).scores[0, 0] == 1


def test_codes_that_tell_too_little_are_not_used():
    # All vectors are all but the same: their order hangs on what four bits do not hold.
    same = np.ones((4000, DIM), np.float32) + np.random.default_rng(0).normal(0, 1e-4, (4000, DIM)).astype(np.float32)
    same /= np.linalg.norm(same, axis=1, keepdims=True)
    exact = faiss.IndexFlatIP(DIM)
    exact.add(same)
    assert FastScan.train(exact, np.arange(4000)) is None


class Given:
    """Vectors that the test chooses."""

    name, dim, fingerprint = "given", DIM, "given"

    def embed(self, texts, *, kind="passage"):
        return clustered(1200, seed=5)[[int(text.split()[-1]) for text in texts]]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of codes of an index of 1,199 notes."""
    monkeypatch.setattr(index_module.VectorIndex.tune, "__defaults__", (1000,))
    documents = [Document(f"{n}.txt", f"Note {n}", "text") for n in range(1200)]
    with LocalKnowledge.create(tmp_path / "index", Given()) as made:
        made.upsert(documents[:1100], vectors=clustered(1200, seed=5)[:1100])
        made.upsert(documents[1100:], vectors=clustered(1200, seed=5)[1100:])
        made.delete(["7.txt"])
        made.compact()
        assert made.problems() == []
    return tmp_path / "index" / read_manifest(tmp_path / "index").generation / "codes.npz"


def opened(codes):
    return LocalKnowledge.open(codes.parents[1], Given())


def test_codes_are_kept_beside_the_vectors(kept):
    with opened(kept) as made:
        quick = made._store.index.quick
        assert quick is not None and len(quick) == 1200 and quick.lost == 1
        assert [one.source for one in made.search("note 1150", 1)] == ["1150.txt"]
        assert "7.txt" not in [one.source for one in made.search("note 7", 50)]


def of_other_vectors(codes):
    other = VectorIndex(DIM, device="cpu")
    other.add(clustered(1200, seed=8))
    other.tune()
    other.quick.save(codes)


def without_checksum(codes):
    """As versions before this one left it."""
    database = sqlite3.connect(codes.with_name("passages.sqlite"))
    database.execute("DROP TABLE codes")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [lambda codes: codes.write_bytes(codes.read_bytes()[:1000]), of_other_vectors, without_checksum],
    ids=["truncated", "other", "unknown"],
)
def test_codes_that_are_not_those_that_were_saved_are_made_again(kept, damage):
    damage(kept)
    left = kept.read_bytes()
    with opened(kept) as made:  # they can be made again, so nothing is lost
        quick = made._store.index.quick
        assert quick is not None and len(quick) == quick.trained == 1199
        assert [one.source for one in made.search("note 1150", 1)] == ["1150.txt"]
        assert kept.read_bytes() == left, "who only reads writes nothing"
        made.upsert([Document("new.txt", "Note 3", "text")])
        assert made.problems() == []
    assert kept.read_bytes() != left
    with opened(kept) as made:
        quick = made._store.index.quick
        assert (len(quick), quick.trained) == (1200, 1199), "those that were kept"


def test_faiss_reads_nothing_but_what_it_wrote(tmp_path, index):
    checksum = index.quick.save(tmp_path / "codes")
    assert len(FastScan.load(tmp_path / "codes", checksum)) == 4000
    assert FastScan.load(tmp_path / "nowhere", checksum) is None
    assert FastScan.load(tmp_path / "codes", None) is None
    with np.load(tmp_path / "codes") as content:
        parts = {**content, "codes": content["codes"] ^ 1}
    with (tmp_path / "codes").open("wb") as file:
        np.savez(file, **parts)  # a file in order, as far as NumPy can say
    assert FastScan.load(tmp_path / "codes", checksum) is None
