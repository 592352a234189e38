"""Does it decide, find and answer right? The coffee house's own questions, typed, each in a fresh conversation."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path

from tables import Table

from vivavoce.agent import Persona, VoiceAgent

HERE = Path(__file__).parents[2] / "examples" / "coffeehouse"


def run(limit: int | None = None) -> Table:
    agent = VoiceAgent.load(
        HERE / "handbook", recognizer=None, synthesizer=False, persona=Persona.load(HERE / "persona.json")
    )
    asked = [(row["question"], row) for row in _rows("handbook_questions.jsonl")[:limit]]
    other = [(row["text"], row) for row in _rows("no_lookup.jsonl")[:limit]]
    unknown = [(row["question"], row) for row in _rows("unanswerable.jsonl")[:limit]]
    looked = {}
    turns = {}
    for number, (text, _) in enumerate([*asked, *other, *unknown]):
        turns[text] = agent.ask(text, thread_id=str(number), speak=False)
        looked[text] = bool(turns[text].decision and turns[text].decision.retrieve)
    found = [turns[text] for text, _ in asked if looked[text]]
    pages = {text: row["page"] for text, row in asked}
    rows = [
        _row("questions that the handbook answers: looked up", [looked[text] for text, _ in asked]),
        _row("… and the right page is the first", [t.passages[0].source == pages[t.heard.text] for t in found]),
        _row("… and the answer holds the fact", [holds(turns[text].text, row) for text, row in asked if looked[text]]),
        _row("… and it wrongly says that it does not know", [not t.sources for t in found]),
        _row(
            "questions that it does not answer: says so, or does not look up",
            [not turns[t].sources for t, _ in unknown],
        ),
    ]
    for kind in sorted({row["kind"] for _, row in other}):
        rows.append(_row(f"{kind}: looked up", [looked[text] for text, row in other if row["kind"] == kind]))
    rows.append(_row("small talk, orders and the like together: looked up", [looked[text] for text, _ in other]))
    agent.close()
    return Table(
        "Deciding, finding, answering: the coffee house",
        "python tests/benchmarks/run.py --only answers",
        rows,
        "Questions in `examples/coffeehouse/*.jsonl`. The quoting options were chosen on every second of the "
        "answerable ones and on the unanswerable ones; the decision was trained on none of them.",
    )


def holds(answer: str, row: dict[str, object]) -> bool:
    """Whether an answer holds one of the accepted forms of the fact."""
    said = _plain(answer)
    accepted = [str(row["answer"]), *map(str, row["accept"])]  # type: ignore[call-overload]
    return any(re.search(rf"\b{re.escape(_plain(form))}\b", said) for form in accepted)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]", " ", text.lower()).split())


def _row(what: str, right: list[bool]) -> dict[str, object]:
    return {"what": what, "n": len(right), "share": float(statistics.mean(right)) if right else math.nan}


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
