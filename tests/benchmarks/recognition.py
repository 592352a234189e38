"""The N-best list against faster-whisper's single best: time and word error rate, same weights, same clips, one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import jiwer
from tables import Table

from vivavoce.agent import models
from vivavoce.agent.assistant import ASR
from vivavoce.speech import Audio, WhisperRecognizer, normalizer

ROOT = Path(__file__).parents[2]
N_BEST = 5


def run(limit: int | None = None, manifests: Sequence[Path] = ()) -> Table:
    from faster_whisper import WhisperModel

    folder = models.resolve(ASR)
    ours = WhisperRecognizer(folder, device="cpu")
    theirs = WhisperModel(str(folder), device="cpu", compute_type="int8")
    rows = []
    for manifest in manifests or [ROOT / "examples" / "coffeehouse" / "questions" / "manifest.jsonl"]:
        clips = _clips(manifest)[:limit]
        _warm(ours, theirs, clips[0][0])
        rows.append(_compared(manifest.parent.name, ours, theirs, clips))
    return Table(
        "N-best recognition against faster-whisper's 1-best",
        "python tests/benchmarks/run.py --only recognition --manifest M …",
        rows,
        f"Whisper base, int8, CPU; ours: {N_BEST} hypotheses with voice detection, theirs: `beam_size=5`; both detect "
        "the language. The clips take turns in going first. Ratio: median over clips of our time by theirs.",
    )


def _compared(
    name: str, ours: WhisperRecognizer, theirs: object, clips: Sequence[tuple[Audio, str]]
) -> dict[str, object]:
    plain = normalizer("en")
    ratios, mine, other, best, theirs_s, ours_s, distinct = [], [], [], [], [], [], []
    for number, (audio, _) in enumerate(clips):
        order = (_ours, _theirs) if number % 2 else (_theirs, _ours)
        timed = {}
        for recognise in order:
            begin = time.perf_counter()
            heard = recognise(ours if recognise is _ours else theirs, audio)
            timed[recognise] = (time.perf_counter() - begin, heard)
        ours_s.append(timed[_ours][0])
        theirs_s.append(timed[_theirs][0])
        ratios.append(timed[_ours][0] / timed[_theirs][0])
        other.append(plain(timed[_theirs][1][0]))
        mine.append(plain(timed[_ours][1][0]))
        reference = plain(clips[number][1])
        distinct.append(len(timed[_ours][1]))
        best.append(min(map(plain, timed[_ours][1]), key=lambda text: jiwer.wer(reference, text)))
    references = [plain(text) for _, text in clips]
    return {
        "clips": f"{name} ({len(clips)})",
        "time ratio": statistics.median(ratios),
        "ours s": statistics.median(ours_s),
        "faster-whisper s": statistics.median(theirs_s),
        "WER ours": jiwer.wer(references, mine),
        "WER faster-whisper": jiwer.wer(references, other),
        "WER best of 5": jiwer.wer(references, best),
        "distinct": statistics.mean(distinct),
    }


def _ours(recognizer: WhisperRecognizer, audio: Audio) -> list[str]:
    return [hypothesis.text for hypothesis in recognizer.transcribe(audio, n_best=N_BEST).hypotheses] or [""]


def _theirs(model: object, audio: Audio) -> list[str]:
    segments, _ = model.transcribe(audio.samples, beam_size=5)  # type: ignore[attr-defined]
    return [" ".join(segment.text for segment in segments)]


def _warm(ours: WhisperRecognizer, theirs: object, audio: Audio) -> None:
    _ours(ours, audio)
    _theirs(theirs, audio)


def _clips(manifest: Path) -> list[tuple[Audio, str]]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [(Audio.read(manifest.parent / row["audio_filepath"], rate=16_000), row["text"]) for row in rows]
