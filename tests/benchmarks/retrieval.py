"""The knowledge base against chromadb and LangChain's FAISS store: the same vectors, each system in its own processes.

The vectors are drawn around 2,000 centres, as those of texts lie around topics. They need 1.6 kB a document in the
folder for temporary files, and each system as much again or more.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from stores import GROUPS, STORES, K, LangChainFaiss, Store, Vectors
from tables import Table

COMMAND = "python tests/benchmarks/run.py --only retrieval"
N, MILLION = 100_000, 1_000_000
DIM = 384
CENTRES, SPREAD = 2_000, 0.7
QUERIES, WARM_UP = 200, 20
ENOUGH = 0.99
OPENED = 3  # times, at least
_BLOCK = 10_000  # vectors drawn and compared at once
_PART = 100_000  # documents given at once
_OURS, _INT8, *_RIVALS = STORES
# The row, the figure, and whether it is compared as a ratio.
_ROWS = (
    ("add {first:,} documents, s", "first", True),
    ("add {more:,} more, s", "more", True),
    ("query p50, ms", "query", True),
    ("… recall@10", "recall", False),
    ("… set to", "setting", False),
    ("… recall@10 by default", "default recall", False),
    ("filtered query p50, ms", "filtered query", True),
    ("… recall@10", "filtered recall", False),
    ("… set to", "filtered setting", False),
    ("… recall@10 by default", "filtered default recall", False),
    ("reopen and answer, s", "opened", True),
    ("peak memory, adding, GB", "adding memory", True),
    ("peak memory, reopened and asked, GB", "asking memory", True),
    ("on disk, GB", "disk", True),
)


def run(limit: int | None = None, n: int | None = None) -> Table:
    count = n or _few(N, limit)
    installed = [name for name in STORES if name != _INT8 and _installed(name)]
    figures = measure(installed, count, limit)
    rows: list[dict[str, object]] = []
    for what, key, compared in _ROWS:
        row: dict[str, object] = {"what": what.format(**_shares(count)), _OURS: figures[_OURS][key]}
        for name in _RIVALS:
            theirs = figures[name][key] if name in figures else "not installed"
            row[name] = theirs
            row[f"ours / {name}"] = figures[_OURS][key] / theirs if compared and name in figures else "–"
        rows.append(row)
    return Table(
        f"The knowledge base against chromadb and LangChain's FAISS store: {count:,} vectors",
        COMMAND + _flags(limit=limit, n=n),
        rows,
        f'{DIM} dimensions, {CENTRES:,} clusters, the same for all; ours: `channels=("dense",)`. Times of a query: '
        f"median over {min(limit or QUERIES, QUERIES)} of them, {WARM_UP} others before. The filter holds for 1 % of "
        "the documents, for other ones each time. `ef_search` and `fetch_k`, which only counts with a filter, are "
        f"raised until recall@10 is at least {ENOUGH}. All that is added is on disk when the time ends. Reopened by "
        "fresh processes, files in the cache. Memory is that of the process, with the libraries and, adding, the "
        f"vectors that it is given. Ratios: below 1, ours takes less.{_absent(installed)}",
    )


def million(limit: int | None = None) -> Table:
    """Ours alone, with many more."""
    count = _few(MILLION, limit)
    rows: list[dict[str, object]] = []
    for figures in measure([_OURS, _INT8], count, limit).values():
        row = {what.format(**_shares(count)): figures[key] for what, key, compared in _ROWS if compared}
        row["query recall@10"], row["filtered recall@10"] = figures["recall"], figures["filtered recall"]
        rows.append({"held as": "int8" if rows else "float32", **row})
    return Table(
        f"The knowledge base alone: {count:,} vectors",
        COMMAND + " --million" + _flags(limit=limit),
        rows,
        f"Measured as the table of {N:,} vectors is; documents are added {_PART:,} at a time.",
    )


def measure(names: Sequence[str], count: int, limit: int | None = None) -> dict[str, dict[str, Any]]:
    """The figures of each system on the same vectors."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _say(f"drawing {count:,} vectors")
        draw(folder, count, min(limit or QUERIES, QUERIES))
        return {name: _figures(name, folder, count) for name in names}


def draw(folder: Path, count: int, queries: int) -> None:
    """Write the vectors, the queries, and what is truly nearest, among all and in one group."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, DIM), np.float32)
    asked = drawn(rng, centres, QUERIES + WARM_UP)
    asked = np.concatenate([asked[:queries], asked[QUERIES:]])
    scores = np.empty((queries, count), np.float32)
    with (folder / "vectors.f32").open("wb") as file:
        for first in range(0, count, _BLOCK):
            vectors = drawn(rng, centres, min(_BLOCK, count - first))
            vectors.tofile(file)
            scores[:, first : first + len(vectors)] = asked[:queries] @ vectors.T
    groups = [np.arange(query % GROUPS, count, GROUPS) for query in range(queries)]
    nearest = [_nearest(line) for line in scores]
    within = [group[_nearest(line[group])] for line, group in zip(scores, groups, strict=True)]
    np.savez(folder / "questions.npz", queries=asked, nearest=nearest, within=within)


def drawn(rng: np.random.Generator, centres: Vectors, count: int) -> Vectors:
    vectors = centres[rng.integers(0, len(centres), count)]
    vectors += np.float32(SPREAD) * rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _nearest(scores: Vectors) -> np.ndarray:
    return np.argpartition(-scores, K - 1)[:K]


def _figures(name: str, folder: Path, count: int) -> dict[str, Any]:
    store = STORES[name]
    _say(f"{name}: adding")
    own = folder / str(list(STORES).index(name))
    own.mkdir()
    added = _child("add", name, own, count)
    disk = sum(file.stat().st_size for file in own.rglob("*") if file.is_file())
    runs: list[dict[str, Any]] = []
    for value in store.values:
        _say(f"{name}: asking" + (f", {store.setting} {value}" if store.setting else ""))
        runs.append(_asked(name, own, value))
        if max(run["recall"] for run in runs) >= ENOUGH and max(run["filtered recall"] for run in runs) >= ENOUGH:
            break
    while len(runs) < OPENED:
        runs.append(_asked(name, own, runs[-1]["value"]))
    plain, filtered = _reached(runs, "recall"), _reached(runs, "filtered recall")
    return {
        **added,
        "query": plain["query"],
        "recall": plain["recall"],
        "setting": _setting(store, plain["value"], filtered=False),
        "default recall": runs[0]["recall"],
        "filtered query": filtered["filtered query"],
        "filtered recall": filtered["filtered recall"],
        "filtered setting": _setting(store, filtered["value"], filtered=True),
        "filtered default recall": runs[0]["filtered recall"],
        "opened": statistics.median(run["opened"] for run in runs),
        "asking memory": statistics.median(run["memory"] for run in runs),
        "disk": disk / 1e9,
    }


def _asked(name: str, own: Path, value: int) -> dict[str, Any]:
    if value != STORES[name].values[0]:
        _child("tune", name, own, value)
    return {"value": value, **_child("ask", name, own, value)}


def _reached(runs: Sequence[Mapping[str, Any]], recall: str) -> Mapping[str, Any]:
    """The first that found enough, or the one that found most."""
    return next((run for run in runs if run[recall] >= ENOUGH), max(runs, key=lambda run: run[recall]))


def _setting(store: type[Any], value: int, *, filtered: bool) -> str:
    used = store.setting and (filtered or store is not LangChainFaiss)
    return f"{store.setting} {value:,}" if used else "–"


def _few(count: int, limit: int | None) -> int:
    """With few queries, few vectors."""
    return count if limit is None else min(count, 1_000 * limit)


def _shares(count: int) -> dict[str, int]:
    return {"first": count * 4 // 5, "more": count - count * 4 // 5}


def _flags(**given: int | None) -> str:
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)


def _installed(name: str) -> bool:
    try:
        metadata.version(STORES[name].package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _absent(installed: Sequence[str]) -> str:
    left_out = [STORES[name].package for name in _RIVALS if name not in installed]
    return f" Not installed, so left out: `pip install {' '.join(left_out)}`." if left_out else ""


def _say(what: str) -> None:
    print(f"retrieval: {what}", file=sys.stderr, flush=True)


def _child(task: str, name: str, own: Path, number: int) -> dict[str, Any]:
    command = [sys.executable, __file__, task, name, str(own), str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


# --- in a process of its own ------------------------------------------------------------------------------------------


def add(store: Store, own: Path, count: int) -> dict[str, float]:
    """Four fifths of the documents, then the rest."""
    part = _shares(count)["first"]
    with (own.parent / "vectors.f32").open("rb") as file:
        first = _seconds(store.create)
        first += _add(store, file, 0, part)
        more = _add(store, file, part, count)
    store.close()
    return {"first": first, "more": more, "adding memory": _peak()}


def _add(store: Store, file: Any, begin: int, end: int) -> float:
    taken = 0.0
    for first in range(begin, end, _PART):
        size = min(_PART, end - first)
        vectors = np.fromfile(file, np.float32, size * DIM).reshape(size, DIM)
        taken += _seconds(partial(store.add, first, vectors))
    return taken + _seconds(store.keep)


def tune(store: Store, own: Path, value: int) -> dict[str, float]:
    store.tune(value)
    return {}


def ask(store: Store, own: Path, value: int) -> dict[str, float]:
    """Open it, and ask the queries, of all documents and of a group."""
    with np.load(own.parent / "questions.npz") as content:
        queries, nearest, within = content["queries"], content["nearest"], content["within"]
    count = len(nearest)
    others = queries[count:]

    def reopened() -> None:
        store.open()
        store.ask(others[0], None, value)

    figures = {"opened": _seconds(reopened)}
    for prefix, truth in (("", nearest), ("filtered ", within)):
        _timed(store, value, others, [()] * len(others), grouped=bool(prefix))
        took, recall = _timed(store, value, queries[:count], truth, grouped=bool(prefix))
        figures |= {f"{prefix}query": took, f"{prefix}recall": recall}
    store.close()
    return {**figures, "memory": _peak()}


def _timed(
    store: Store, value: int, queries: Vectors, truth: Sequence[Sequence[int]], *, grouped: bool
) -> tuple[float, float]:
    """Milliseconds that a query takes, the median, and how much of what is right was found."""
    times, recalls = [], []
    for number, (query, right) in enumerate(zip(queries, truth, strict=True)):
        group = number % GROUPS if grouped else None
        begin = time.perf_counter()
        found = store.ask(query, group, value)
        times.append(time.perf_counter() - begin)
        recalls.append(len({*right} & {*found}) / K)
    return 1_000 * statistics.median(times), statistics.mean(recalls)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _peak() -> float:
    """Most memory that this process has had, in GB; what `getrusage` tells begins with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9


def main() -> None:
    task, name, own, number = sys.argv[1:]
    store = STORES[name](Path(own), DIM)
    work = {"add": add, "tune": tune, "ask": ask}[task]
    print(json.dumps(work(store, Path(own), int(number))))


if __name__ == "__main__":
    main()
