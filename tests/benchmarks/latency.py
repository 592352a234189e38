"""From the end of the user's audio to the first audio of the answer, models loaded, over the demo's recordings."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from tables import Table

from vivavoce.agent import Persona, VoiceAgent
from vivavoce.speech import Audio

HERE = Path(__file__).parents[2] / "examples" / "coffeehouse"
STAGES = ("asr", "decide", "search", "read", "first_sentence", "speak", "first_audio", "total")


def run(limit: int | None = None) -> Table:
    agent = VoiceAgent.load(HERE / "handbook", persona=Persona.load(HERE / "persona.json"))
    rows = [json.loads(line) for line in (HERE / "questions" / "manifest.jsonl").read_text().splitlines()][:limit]
    timed: dict[str, list[dict[str, float]]] = {"with look-up": [], "without": []}
    for row in rows:
        turn = agent.ask(Audio.read(HERE / "questions" / row["audio_filepath"], rate=16_000), thread_id="demo")
        assert turn.decision is not None, f"nothing was heard in {row['audio_filepath']}"
        timed["with look-up" if turn.decision.retrieve else "without"].append(turn.timings)
    agent.close()
    lines = []
    for kind, turns in timed.items():
        line: dict[str, object] = {"turns": f"{kind} ({len(turns)})"}
        for stage in STAGES:
            values = [turn[f"{stage}_ms"] for turn in turns if f"{stage}_ms" in turn]
            line[f"{stage.replace('_', ' ')} ms"] = round(statistics.median(values)) if values else "–"
        lines.append(line)
    return Table(
        "End of audio to first audio of the answer",
        "python tests/benchmarks/run.py --only latency",
        lines,
        "Median over the demo's recordings, one conversation. `first sentence`, `first audio` and `total` count from "
        "the end of the audio, the others are the stage's own time.",
    )
