import faiss
import numpy as np
import pytest

from vivavoce.retrieval import DeviceUnavailable, DimensionMismatch, EmbeddingError, VectorIndex
from vivavoce.retrieval.index import vectors as index_module


def unit(n, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_finds_what_brute_force_finds():
    vectors, queries = unit(200, 16), unit(7, 16, seed=1)
    index = VectorIndex(16, device="cpu")
    index.add(vectors[:150])
    index.add(np.asfortranarray(vectors[150:]))
    hits = index.search(queries, 5)
    truth = queries @ vectors.T
    assert np.array_equal(hits.rows, np.argsort(-truth, axis=1)[:, :5])
    assert np.allclose(hits.scores, -np.sort(-truth, axis=1)[:, :5], atol=1e-5)
    assert hits.rows.dtype == np.int64 and hits.scores.dtype == np.float32
    assert len(index) == 200
    assert np.array_equal(index.vectors(), vectors)
    assert np.array_equal(index.vectors(np.array([3, 199, 3])), vectors[[3, 199, 3]])
    assert index.vectors(np.array([], np.int64)).shape == (0, 16)


def test_asks_for_more_than_there_is():
    index = VectorIndex(4)
    assert index.search(unit(2, 4), 3).rows.shape == (2, 0)
    index.add(unit(2, 4))
    assert index.search(unit(3, 4), 9).rows.shape == (3, 2)
    assert index.search(unit(0, 4), 9).rows.shape == (0, 0)


@pytest.mark.parametrize("shape", [(2, 5), (4,), (2, 4, 1)])
def test_other_dimensions_are_refused(shape):
    index = VectorIndex(4)
    with pytest.raises(DimensionMismatch, match=r"\(n, 4\)"):
        index.add(np.zeros(shape, np.float32))
    with pytest.raises(DimensionMismatch):
        index.search(np.zeros(shape, np.float32), 1)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(EmbeddingError, match="not finite"):
        VectorIndex(2).add(np.array([[np.nan, 1]], np.float32))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="dim"):
        VectorIndex(0)
    with pytest.raises(ValueError, match="device"):
        VectorIndex(4, device="tpu")


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="FAISS is built for GPUs here")
def test_cuda_without_gpu_support_is_a_clear_error_and_auto_is_not():
    assert VectorIndex(4, device="auto").device == "cpu"
    with pytest.raises(DeviceUnavailable, match=r"vivavoce\[gpu\]"):
        VectorIndex(4, device="cuda")


class Card:
    """The GPU's part is played by the CPU: what is tested is what is asked of a GPU, and when."""

    def __init__(self, monkeypatch):
        self.copies = []
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", self.copy, raising=False)

    def copy(self, resources, device, index):
        assert isinstance(index, faiss.IndexFlatIP) and device == 0
        self.copies.append(faiss.clone_index(index))
        return self.copies[-1]


def as_brute_force(index, vectors, rows, k, seed=1):
    queries = unit(5, vectors.shape[1], seed=seed)
    hits = index.search(queries, k)
    truth = queries @ vectors[rows].T
    assert np.array_equal(hits.rows, np.asarray(rows)[np.argsort(-truth, axis=1)[:, :k]])
    assert np.allclose(hits.scores, -np.sort(-truth, axis=1)[:, :k], atol=1e-5)


def test_a_gpu_is_chosen_where_there_is_one(monkeypatch):
    Card(monkeypatch)
    assert VectorIndex(4).device == VectorIndex(4, device="cuda").device == "cuda"
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    assert VectorIndex(4).device == "cpu"
    with pytest.raises(DeviceUnavailable, match="no GPU"):
        VectorIndex(4, device="cuda")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_mirror_on_a_gpu_outlives_small_changes(monkeypatch, precision):
    card, vectors = Card(monkeypatch), unit(1000, 16)
    index = VectorIndex(16, precision=precision)
    index.add(vectors[:900])
    as_brute_force(index, vectors, range(900), 7)
    index.add(vectors[900:920])
    gone = np.arange(0, 920, 23)
    index.remove(gone)
    as_brute_force(index, vectors, np.setdiff1d(np.arange(920), gone), 7)
    index.add(vectors[920:950])
    index.remove(np.array([905, 949]))
    kept = np.setdiff1d(np.arange(950), [*gone, 905, 949])
    as_brute_force(index, vectors, kept, 40)
    assert len(card.copies) == 1, "few of the vectors had changed"
    index.add(vectors[950:], np.arange(950, 1000))
    index.remove(np.arange(100, 200))
    as_brute_force(index, vectors, np.setdiff1d(np.arange(1000), [*gone, 905, 949, *range(100, 200)]), 7)
    assert len(card.copies) == 2, "many had"
    index.search(unit(1, 16), 7, np.arange(300, 320))
    assert len(card.copies) == 2, "a filtered search needs none"


def test_a_gpu_is_never_asked_for_more_than_it_finds(monkeypatch):
    card, vectors = Card(monkeypatch), unit(5000, 8)
    index = VectorIndex(8)
    index.add(vectors)
    as_brute_force(index, vectors, range(5000), 2048)
    index.remove(np.arange(5))
    as_brute_force(index, vectors, range(5, 5000), 2048)
    assert len(card.copies) == 2, "2,053 would have been too many"
    as_brute_force(index, vectors, range(5, 5000), 2049)
    assert len(card.copies) == 2, "these are found in main memory"
    empty = VectorIndex(8)
    assert empty.search(unit(1, 8), 3).rows.shape == (1, 0)


def test_int8_holds_a_quarter_and_finds_nearly_all(monkeypatch):
    monkeypatch.setattr(index_module, "LEAST", 2000)
    vectors, queries = unit(4000, 64), unit(50, 64, seed=1)
    exact, small = VectorIndex(64, device="cpu"), VectorIndex(64, device="cpu", precision="int8")
    for index in (exact, small):
        index.reserve(4000)
        index.add(vectors[:1500])
    assert np.array_equal(small.vectors(), exact.vectors()), "few are held as they are"
    for index in (exact, small):
        index.add(vectors[1500:3000])
        index.remove(np.arange(0, 3000, 3))
        index.add(vectors[3000:], np.arange(3000, 4000))
    wanted, found = exact.search(queries, 10), small.search(queries, 10)
    recall = np.mean([np.isin(one, other).mean() for one, other in zip(wanted.rows, found.rows, strict=True)])
    assert recall > 0.98 and np.allclose(wanted.scores, found.scores, atol=0.01)
    small.exact = lambda rows: vectors[rows]
    again = small.search(queries, 10)
    assert np.array_equal(again.rows, wanted.rows) and np.allclose(again.scores, wanted.scores, atol=1e-5)
    assert small._flat.sa_code_size() * 4 == exact._flat.sa_code_size()
    among = np.arange(1, 3000, 30)
    assert np.isin(small.search(queries, 5, among).rows, among).all()
    with pytest.raises(ValueError, match="precision"):
        VectorIndex(8, precision="int4")


@pytest.mark.parametrize("share", [0.02, 0.1, 0.6, 1.0])
def test_a_search_among_some_rows_is_what_brute_force_finds_among_them(share):
    vectors, queries = unit(400, 16), unit(5, 16, seed=1)
    index = VectorIndex(16, device="cpu")
    index.add(vectors)
    rows = np.sort(np.random.default_rng(2).choice(400, int(400 * share), replace=False)).astype(np.int64)
    hits = index.search(queries, 6, rows)
    truth = queries @ vectors[rows].T
    assert np.array_equal(hits.rows, rows[np.argsort(-truth, axis=1)[:, :6]])
    assert np.allclose(hits.scores, -np.sort(-truth, axis=1)[:, :6], atol=1e-5)
    assert index.search(queries, 6, rows[:0]).rows.shape == (5, 0)
