import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from vivavoce.retrieval import DeviceUnavailable, DimensionMismatch, EmbeddingError, VectorIndex


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
    with pytest.raises(DeviceUnavailable, match="faiss-gpu"):
        VectorIndex(4, device="cuda")


def test_gpu_mirror_is_rebuilt_after_an_addition(monkeypatch):
    """The GPU's part is played by the CPU index: what is tested is when a mirror is made."""
    mirrors = []

    def to_gpu(_resources, _device, index):
        mirrors.append(faiss.clone_index(index))
        return mirrors[-1]

    fake = SimpleNamespace(
        IndexFlatIP=faiss.IndexFlatIP, StandardGpuResources=object, get_num_gpus=lambda: 1, index_cpu_to_gpu=to_gpu
    )
    monkeypatch.setitem(sys.modules, "faiss", fake)
    index = VectorIndex(4)
    assert index.device == "cuda"
    index.add(unit(3, 4))
    index.search(unit(1, 4), 2)
    index.search(unit(1, 4), 2)
    assert len(mirrors) == 1
    index.add(unit(1, 4, seed=2))
    assert index.search(unit(1, 4, seed=2), 1).rows.tolist() == [[3]]
    assert len(mirrors) == 2
    fake.get_num_gpus = lambda: 0
    assert VectorIndex(4).device == "cpu"
    with pytest.raises(DeviceUnavailable, match="no GPU"):
        VectorIndex(4, device="cuda")


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
