"""Spoken orders and keywords through the real recogniser."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vivavoce.agent.evaluation.commands import evaluate_keywords
from vivavoce.agent.evaluation.rows import Clip, read_clips
from vivavoce.agent.understanding.directed import DirectedSpeech
from vivavoce.agent.understanding.grammar import Grammar
from vivavoce.agent.understanding.keywords import KEYWORD_HEARING, KeywordSpotter
from vivavoce.agent.understanding.slots import SlotFiller
from vivavoce.speech import WhisperOptions, WhisperRecognizer

pytestmark = pytest.mark.weights

COFFEE = """\
context:
  expressions:
    order:
      - "[make me, I want] [a, an] (@details) $drink:coffeeDrink"
      - "[make me, I want] [a, an] (@details) $drink:coffeeDrink with $milk:milkAmount and $sugar:sugarAmount"
      - "[make me, I want] [a, an] (@details) $drink:coffeeDrink with $sugar:sugarAmount"
  slots:
    size: [small, medium, large]
    roast: [light roast, medium roast, dark roast]
    drink: [mocha, cappuccino, latte, coffee, house coffee, iced coffee]
    milk: [whole milk, skim milk, almond milk]
    sugar: [sugar, brown sugar, sweetener]
  macros:
    details: ["$size:size", "$roast:roast", "$size:size $roast:roast"]
"""


def test_orders_are_understood_and_questions_are_not(whisper_dir, coffeehouse):
    recognizer = WhisperRecognizer(whisper_dir, options=WhisperOptions(language="en"), device="cpu")
    filler = SlotFiller(Grammar.from_yaml(COFFEE))
    directed = DirectedSpeech(commands=filler)
    for clip in read_clips(coffeehouse / "questions" / "manifest.jsonl")[:6]:
        heard = recognizer.transcribe(clip.audio(), n_best=5)
        command = filler.fill(heard)
        assert dict(command.slots) == clip.row.get("slots", {}), heard.text
        assert command.accepted is (clip.row["kind"] == "order") and bool(command.reason) is not command.accepted
        if command.accepted:
            assert command.confidence > 0.5 and directed.judge(heard).directed


def test_a_keyword_is_found_in_speech(whisper_dir, coffeehouse):
    recognizer = WhisperRecognizer(whisper_dir, options=KEYWORD_HEARING, device="cpu")
    path = coffeehouse / "questions" / "4-free-drink.flac"
    spotter = KeywordSpotter(["umbrella", "stamps", "caramel"])
    clips = [Clip(path.name, path, {"said": "stamps"})]
    summary, items = evaluate_keywords(clips, recognizer, spotter, "said", n_best=5)
    assert summary["accuracy_nbest"] == 1.0 and items[0]["probability"] > 0.5


def test_the_verb_counts_right_commands(whisper_dir, coffeehouse, tmp_path):
    (tmp_path / "grammar.yaml").write_text(COFFEE)
    (tmp_path / "examples.txt").write_text("make me a small light roast latte with sugar\n")
    rows = [clip.row for clip in read_clips(coffeehouse / "questions" / "manifest.jsonl") if "slots" in clip.row][:2]
    for row in rows:
        row.update(intent="order", audio_filepath=str(coffeehouse / "questions" / row["audio_filepath"]))
    rows[1]["slots"] = {"coffeeDrink": "latte"}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"--manifest": "m.jsonl", "--grammar": "grammar.yaml", "--examples": "examples.txt", "--out": "items.jsonl"}
    arguments = [part for name, file in files.items() for part in (name, str(tmp_path / file))]
    done = subprocess.run(
        [sys.executable, "-m", "vivavoce.agent", "eval", "commands", *arguments, "--n-best", "5", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "n": 2,
        "accepted_1best": 0.5,
        "accepted_nbest": 0.5,
        "wrong_fewer": 0.0,
        "refused": 0,
        "examples_understood": 1.0,
    }
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [item["accepted_nbest"] for item in items] == [True, False]
