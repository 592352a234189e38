"""The index on a GPU against FAISS's exact index on the CPU: the same vectors, in one process.

python tests/benchmarks/gpu.py [--n 1000000]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from tables import Table

from retrieval import CENTRES, DIM, K, drawn
from vivavoce.retrieval import VectorIndex

Vectors = NDArray[np.float32]
Search = Callable[[Vectors], NDArray[np.int64]]

MILLION = 1_000_000
BATCHES = (1, 32, 1024)
QUERIES = 2_048
NEW = 10_000
_BLOCK = 50_000


def run(count: int = MILLION) -> Table:
    faiss: Any = importlib.import_module("faiss")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, DIM), np.float32)
    queries = drawn(rng, centres, QUERIES)
    ours, flat = VectorIndex(DIM, device="cuda"), faiss.IndexFlatIP(DIM)
    for first in range(0, count, _BLOCK):
        vectors = drawn(rng, centres, min(_BLOCK, count - first))
        ours.add(vectors)
        flat.add(vectors)
    began = time.perf_counter()
    ours.search(queries[:1], K)  # makes the copy on the GPU
    copied = time.perf_counter() - began

    def on_gpu(asked: Vectors) -> NDArray[np.int64]:
        return ours.search(asked, K).rows

    def on_cpu(asked: Vectors) -> NDArray[np.int64]:
        found: NDArray[np.int64] = flat.search(asked, K)[1]
        return found

    rows: list[dict[str, object]] = []
    for size in BATCHES:
        gpu, cpu = _rate(on_gpu, queries, size), _rate(on_cpu, queries, size)
        what = f"{size} at once, queries a second"
        rows.append({"what": what, "GPU": gpu, "CPU, exact": cpu, "GPU / CPU": gpu / cpu})
    truth = on_cpu(queries)
    rows.append({"what": "recall@10", "GPU": _recall(on_gpu(queries), truth), "CPU, exact": 1.0, "GPU / CPU": "–"})
    new = drawn(rng, centres, NEW)
    ours.add(new)
    flat.add(new)
    gone = np.arange(0, count, max(1, count // 500))
    ours.remove(gone)
    flat.remove_ids(faiss.IDSelectorBatch(gone))
    names = ours.rows
    what = f"recall@10, {NEW:,} added and {len(gone):,} removed since"
    recall = _recall(on_gpu(queries), names[on_cpu(queries)])
    rows.append({"what": what, "GPU": recall, "CPU, exact": 1.0, "GPU / CPU": "–"})
    size = 1
    what = "… one at once, queries a second"
    gpu, cpu = _rate(on_gpu, queries, size), _rate(on_cpu, queries, size)
    rows.append({"what": what, "GPU": gpu, "CPU, exact": cpu, "GPU / CPU": gpu / cpu})
    return Table(
        f"The index on a GPU: {count:,} vectors",
        f"python tests/benchmarks/gpu.py --n {count}",
        rows,
        f"{_gpu()}, {os.cpu_count()} CPU cores, faiss {faiss.__version__}. {DIM} dimensions, {CENTRES:,} clusters. "
        f"The copy on the GPU was made in {copied:.2f} s, by the first search. What was added since is searched in "
        "main memory, what was removed is passed over.",
    )


def _rate(search: Search, queries: Vectors, size: int) -> float:
    """Queries a second: median over the batches of at most two seconds."""
    search(queries[:size])
    taken: list[float] = []
    for first in range(0, len(queries) - size + 1, size):
        began = time.perf_counter()
        search(queries[first : first + size])
        taken.append(time.perf_counter() - began)
        if sum(taken) > 2 and len(taken) >= 3:
            break
    return size / statistics.median(taken)


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(
        np.mean([len({*one} & {*other}) / K for one, other in zip(found.tolist(), truth.tolist(), strict=True)])
    )


def _gpu() -> str:
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=MILLION, help="vectors")
    print(run(parser.parse_args().n).markdown())
