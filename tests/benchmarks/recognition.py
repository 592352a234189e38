"""The N-best list against faster-whisper's single best: time and word error rate, same weights, same clips, one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tables import Table

from vivavoce.agent import weights
from vivavoce.agent.evaluation.rows import read_clips
from vivavoce.agent.evaluation.speech import evaluate_wer, faster_whisper
from vivavoce.agent.weights.registry import ASR
from vivavoce.speech import WhisperRecognizer

ROOT = Path(__file__).parents[2]
N_BEST = 5


def run(limit: int | None = None, manifests: Sequence[Path] = ()) -> Table:
    folder = weights.resolve(ASR)
    ours, theirs = WhisperRecognizer(folder, device="cpu"), faster_whisper(str(folder))
    rows = []
    for manifest in manifests or [ROOT / "examples" / "coffeehouse" / "questions" / "manifest.jsonl"]:
        clips = read_clips(manifest, ("text",), limit)
        summary, items = evaluate_wer(clips, ours, n_best=N_BEST, rival=theirs)
        rows.append(
            {
                "clips": f"{manifest.parent.name} ({len(clips)})",
                "time ratio": summary["ratio_faster_whisper"],
                "ours s": summary["seconds"],
                "faster-whisper s": statistics.median(item["seconds_rival"] for item in items),
                "WER ours": summary["wer_1best"],
                "WER faster-whisper": summary["wer_faster_whisper"],
                "WER best of 5": summary["wer_oracle"],
                "distinct": statistics.mean(len(item["hypotheses"]) for item in items),
            }
        )
    return Table(
        "N-best recognition against faster-whisper's 1-best",
        "python tests/benchmarks/run.py --only recognition --manifest M …",
        rows,
        f"Whisper base, int8, CPU; ours: {N_BEST} hypotheses with voice detection, theirs: `beam_size=5`; both detect "
        "the language. The clips take turns in going first. Ratio: median over clips of our time by theirs.",
    )
