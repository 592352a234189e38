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


def test_codes_are_kept_beside_the_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module.VectorIndex.tune, "__defaults__", (1000,))
    documents = [Document(f"{n}.txt", f"Note {n}", "text") for n in range(1200)]
    with LocalKnowledge.create(tmp_path / "index", Given()) as made:
        made.upsert(documents[:1100], vectors=clustered(1200, seed=5)[:1100])
        made.upsert(documents[1100:], vectors=clustered(1200, seed=5)[1100:])
        made.delete(["7.txt"])
        made.compact()
        assert made.problems() == []
    codes = tmp_path / "index" / read_manifest(tmp_path / "index").generation / "codes.npz"
    assert codes.exists()
    with LocalKnowledge.open(tmp_path / "index", Given()) as opened:
        quick = opened._store.index.quick
        assert quick is not None and len(quick) == 1200 and quick.lost == 1
        assert [one.source for one in opened.search("note 1150", 1)] == ["1150.txt"]
        assert "7.txt" not in [one.source for one in opened.search("note 7", 50)]
    codes.write_bytes(codes.read_bytes()[:1000])
    with LocalKnowledge.open(tmp_path / "index", Given()) as opened:  # they can be made again, so nothing is lost
        assert opened._store.index.quick is None
        assert [one.source for one in opened.search("note 1150", 1)] == ["1150.txt"]
        opened.upsert([Document("new.txt", "Note 3", "text")])
        assert opened._store.index.quick is not None
    assert FastScan.load(codes) is not None
