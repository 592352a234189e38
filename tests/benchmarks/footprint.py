"""How long the default models take to load from a warm cache, and how much memory a spoken turn needs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import Table

from vivavoce.agent import open_knowledge

HERE = Path(__file__).parents[2] / "examples" / "coffeehouse"
CHILD = """
import json, sys, time
begin = time.perf_counter()
from vivavoce.agent import VoiceAgent
from vivavoce.speech import Audio
agent = VoiceAgent.load(sys.argv[1])
ready = time.perf_counter() - begin
turn = agent.ask(Audio.read(sys.argv[2], rate=16_000))
# What getrusage tells begins with the peak of the parent.
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(json.dumps({"ready": ready, "first turn": turn.timings["total_ms"] / 1000, "peak": peak * 1024 / 1e9}))
"""


def run(limit: int | None = None) -> Table:
    question = next((HERE / "questions").glob("2-*.flac"))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        open_knowledge(HERE / "handbook").save(f"{folder}/index")
        for _ in range(min(limit or 3, 3)):
            command = [sys.executable, "-c", CHILD, f"{folder}/index", str(question)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    row = {
        "processes": len(runs),
        "imported and loaded s": statistics.median(run["ready"] for run in runs),
        "first turn s": statistics.median(run["first turn"] for run in runs),
        "peak memory GB": statistics.median(run["peak"] for run in runs),
    }
    return Table(
        "Load time and memory",
        "python tests/benchmarks/run.py --only footprint",
        [row],
        "A fresh process each, weights in the cache, the handbook indexed. The time begins before the first import.",
    )
