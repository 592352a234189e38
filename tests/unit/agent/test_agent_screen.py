"""What is shown of a turn and of the machine: to programs as JSON lines, to people as text."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

from vivavoce.agent import (
    Decided,
    Decision,
    Heard,
    Outcome,
    Retrieved,
    Said,
    Saying,
    Speaking,
    Spoke,
    TurnEnded,
    Understood,
    weights,
)
from vivavoce.agent.cli.doctor import examine
from vivavoce.agent.cli.screen import Screen, hypotheses_table, passages_table
from vivavoce.retrieval import Passage
from vivavoce.speech import Audio, Draft, Final, Hypothesis, Partial, SpeechEnded, SpeechStarted, Transcript

SAID = Audio(0.1 * np.ones(2400, np.float32), 24_000)
HEARD = Transcript((Hypothesis("a mocha ☕", -1.0, 4), Hypothesis("a [bold]locker", -2.0, 4)), "en", 0.02, 1.5)
EVENTS = (
    Heard(HEARD),
    Decided(Decision(True, 0.876, "token", "P(<RET>) 0.88 ≥ 0.50")),
    Retrieved((Passage("w#1", "The code is [red]lantern[/red].", "[wifi].md", 0.8125, metadata={"a": 1}),)),
    Saying("The code is lantern."),
    Speaking(SAID, "The code is lantern."),
    Said("The code is lantern.", ("[wifi].md",)),
    Spoke(SAID),
    TurnEnded("ab12", {"asr_ms": 412.345, "first_audio_ms": 1000.06}),
)


def as_json(capsys, events, spoken_to=None) -> list[dict]:
    screen = Screen(Console(file=io.StringIO()), as_json=True)
    screen.asked("question.flac")
    for event in events:
        screen.show(event, spoken_to=spoken_to)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def as_text(events, spoken_to=None) -> str:
    console = Console(file=io.StringIO(), width=100)
    screen = Screen(console)
    screen.asked("[question].flac")
    for event in events:
        screen.show(event, spoken_to=spoken_to)
    return console.file.getvalue()


def test_every_event_is_one_line_with_the_agreed_keys(capsys, tmp_path):
    path = tmp_path / "answer.wav"
    heard, decided, retrieved, said, spoke, ended = as_json(capsys, EVENTS, spoken_to=path)
    assert set(heard) == {"event", "hypotheses", "no_speech_prob", "language"}
    assert heard["event"] == "heard" and heard["language"] == "en" and heard["no_speech_prob"] == 0.02
    assert [set(one) for one in heard["hypotheses"]] == [{"text", "log_prob", "posterior"}] * 2
    assert heard["hypotheses"][0]["text"] == "a mocha ☕"
    assert sum(one["posterior"] for one in heard["hypotheses"]) == pytest.approx(1)
    assert decided == {
        "event": "decided",
        "retrieve": True,
        "probability": 0.876,
        "gate": "token",
        "reason": "P(<RET>) 0.88 ≥ 0.50",
    }
    passage = {"id": "w#1", "text": "The code is [red]lantern[/red].", "source": "[wifi].md", "score": 0.8125}
    assert retrieved == {"event": "retrieved", "passages": [passage]}
    assert said == {"event": "said", "text": "The code is lantern.", "sources": ["[wifi].md"]}
    assert spoke == {"event": "spoke", "path": str(path), "seconds": 0.1}
    assert ended == {"event": "turn_ended", "turn_id": "ab12", "timings": {"asr_ms": 412.3, "first_audio_ms": 1000.1}}
    assert Audio.read(path).seconds == pytest.approx(0.1)


def test_what_was_not_heard_has_its_reason(capsys):
    [heard] = as_json(capsys, [Heard(Transcript.nothing("nobody spoke", 2.0, 0.9))])
    assert heard == {
        "event": "heard",
        "hypotheses": [],
        "no_speech_prob": 0.9,
        "language": "",
        "reason": "nobody spoke",
    }
    assert "nothing was heard: nobody spoke" in as_text([Heard(Transcript.nothing("nobody spoke", 2.0))])


def test_nothing_found_is_an_empty_list(capsys):
    assert as_json(capsys, [Retrieved(())]) == [{"event": "retrieved", "passages": []}]
    assert "found nothing" in as_text([Retrieved(())])


def test_speech_that_is_not_written_is_not_shown(capsys):
    assert as_json(capsys, [Saying("x"), Speaking(SAID, "x"), Spoke(SAID)]) == []
    assert Spoke(SAID).as_json() == {"event": "spoke", "path": None, "seconds": 0.1}


def test_what_a_stream_tells_on_the_way_is_not_shown(capsys):
    told = [SpeechStarted(0.1), Partial("a", " mocha", 0.5), Draft(HEARD, 0.9), SpeechEnded(SAID, 0.1, 0.9)]
    told.append(Final(HEARD, "a", 0.1, 0.9))
    assert as_json(capsys, told) == []
    assert as_text(told) == as_text([])


def test_what_skills_understood_is_shown_in_a_line(capsys):
    order = Outcome("commands", "it is a command (0.93)", reply="Coming.", intent="order", slots={"size": "[small]"})
    ignored = Outcome("directed", "it is not worded like a request", ignored=True)
    chosen = Outcome("chooser", "rover prefers another reading (0.80)", transcript=HEARD)
    [line, *others] = as_json(capsys, map(Understood, (order, ignored, chosen)))
    assert line == {
        "event": "understood",
        "skill": "commands",
        "reason": "it is a command (0.93)",
        "intent": "order",
        "slots": {"size": "[small]"},
        "ignored": False,
        "text": None,
        "reply": "Coming.",
    }
    assert [(other["ignored"], other["text"]) for other in others] == [(True, None), (False, "a mocha ☕")]
    text = as_text(map(Understood, (order, ignored, chosen)))
    assert "commands: order size=[small]  (it is a command (0.93))" in text
    assert "directed: ignored  (it is not worded like a request)" in text
    assert "chooser: heard as 'a mocha ☕'  (rover prefers another reading (0.80))" in text


def test_people_see_the_same_in_tables(tmp_path):
    text = as_text(EVENTS, spoken_to=tmp_path / "a.wav")
    for part in (
        "[question].flac",
        "a mocha ☕",
        "a [bold]locker",
        "0.73",
        "-1.00",
        "P(<RET>) = 0.88",
        "looks it up",
        "The code is [red]lantern[/red].",
        "[wifi].md",
        "0.812",
        "The code is lantern. [[wifi].md]",
        "(0.1 s)",
        "asr ms 412",
        "first audio ms 1000",
    ):
        assert part in text, part
    assert text.count("The code is lantern.") == 1, "sentences on their way are not shown twice"
    assert "answers at once" in as_text([Decided(Decision(False, 0.1, "token", "why"))])


def test_names_are_shown_as_they_are():
    console = Console(file=io.StringIO(), width=100)
    line = {"hypotheses": [{"text": "[/x] hi", "posterior": 1.0, "log_prob": -1.0}]}
    console.print(hypotheses_table(line, title="rec[/bold][a].wav"))
    console.print(passages_table([Passage("p", "[/x] text", "[b]/file.md", 0.5)]))
    console.print(hypotheses_table({"hypotheses": [], "reason": "noise"}, title="[/i].wav"))
    shown = console.file.getvalue()
    for part in ("rec[/bold][a].wav", "[/x] hi", "[/x] text", "[b]/file.md", "[/i].wav: nothing was heard: noise"):
        assert part in shown


# -- the machine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def findings(monkeypatch, tmp_path):
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    return {finding.check: finding for finding in examine()}


def test_the_doctor_names_what_would_run_where(findings):
    assert findings["python"].state.startswith("3.")
    assert "CPUs" in findings["python"].state
    for part in ("language model runs on", "Whisper runs on", "FAISS runs on"):
        assert findings[part].state.startswith(("cpu", "cuda"))
    assert findings["torch"].state[0].isdigit() and findings["torch"].fix == ""


def test_the_doctor_says_what_is_not_there_and_what_to_do(findings, tmp_path):
    assert findings["cache"].state == str(tmp_path)
    for name in weights.REGISTRY:
        assert findings[name].state == "not fetched"
        assert findings[name].fix == f"vivavoce models fetch {name}"
        assert findings[name].as_text().endswith(f"not fetched  → vivavoce models fetch {name}")
    assert findings["cache"].as_json() == {"check": "cache", "state": str(tmp_path), "fix": ""}


def test_a_package_that_is_missing_is_told(monkeypatch):
    from importlib import metadata

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "faiss", None)
    findings = {finding.check: finding for finding in examine()}
    assert findings["torch"].state == findings["openai"].state == "not installed"
    assert findings["torch"].fix == "pip install vivavoce" and "vivavoce[openai]" in findings["openai"].fix
    faiss = findings["FAISS runs on"]
    assert faiss.state.startswith("nothing") and "'vivavoce[cpu]', or 'vivavoce[gpu]'" in faiss.fix
