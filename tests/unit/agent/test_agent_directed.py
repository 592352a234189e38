"""Was that said to the assistant?"""

from __future__ import annotations

import json

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.training.wording import train_wording
from vivavoce.agent.understanding.directed import DirectedSpeech, Wording
from vivavoce.agent.understanding.grammar import Grammar
from vivavoce.agent.understanding.keywords import WakePhrase
from vivavoce.agent.understanding.slots import SlotFiller
from vivavoce.speech import Hypothesis, Transcript


def heard(*scored: tuple[str, float]) -> Transcript:
    return Transcript(tuple(Hypothesis(text, score, 3) for text, score in scored), "en", 0.1, 1.0)


@pytest.mark.parametrize(
    ("text", "directed"),
    [
        ("Turn on the light.", True),
        ("What time is it?", True),
        ("Tell me a joke.", True),
        ("He said that the ship was lost.", False),
        ("So I told him that we would be late.", False),
    ],
)
def test_the_shipped_wording_tells_requests_from_narration(text, directed):
    judged = DirectedSpeech().judge(heard((text, -1.0)))
    assert judged.directed is directed and judged.reason
    assert (judged.probability >= 0.5) is directed


def test_every_hypothesis_is_a_witness():
    wording = Wording({"light": 5.0}, -2.0)
    judge = DirectedSpeech(wording).judge
    certain, torn = judge(heard(("light", -1.0))), judge(heard(("light", -1.0), ("lied", -1.0)))
    assert torn.probability == pytest.approx((wording.probability("light") + wording.probability("lied")) / 2)
    assert torn.probability < certain.probability


def test_a_call_or_a_command_is_enough():
    never = Wording({}, -20.0)
    wake = WakePhrase("hey barista")
    commands = SlotFiller(Grammar.from_values({"light": {"state": ["lights on", "lights off"]}}))
    judge = DirectedSpeech(never, wake=wake, commands=commands).judge
    assert judge(heard(("hey barista hello", -1.0))).reason == "somebody said 'hey barista'"
    assert judge(heard(("lights on", -1.0))).reason == "it is a command"
    assert not judge(heard(("good morning everybody", -1.0))).directed
    assert judge(Transcript.nothing("nobody spoke", 1.0)).reason == "nobody spoke"


def test_training_writes_what_loading_reads(tmp_path):
    asked, told = tmp_path / "asked.jsonl", tmp_path / "told.jsonl"
    asked.write_text("".join(json.dumps({"text": f"switch on lamp {n}"}) + "\n" for n in range(60)))
    told.write_text("".join(json.dumps({"turn": {"text": f"she saw {n} ships"}}) + "\n" for n in range(60)))
    card = train_wording([asked], [told], tmp_path / "w.json")
    assert card["held_out"] == {"auroc": 1.0, "taken_for_directed": 1.0, "other_refused": 1.0}
    wording = Wording.load(tmp_path / "w.json")
    assert wording.probability("switch on the radio") > 0.5 > wording.probability("she saw the radio")
    assert train_wording([asked], [told], tmp_path / "again.json") == card
    assert Wording.load(tmp_path / "again.json") == wording


def test_bad_files_are_named(tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "hello"}\n')
    with pytest.raises(ConfigError, match="at least 50"):
        train_wording([few], [few], tmp_path / "w.json")
    for row in ({"words": "hello"}, {"turn": "hello"}, {"turn": {"words": "hello"}}):
        few.write_text(json.dumps(row) + "\n")
        with pytest.raises(ConfigError, match=r'few\.jsonl: a row needs a "text"'):
            train_wording([few], [few], tmp_path / "w.json")
    with pytest.raises(ConfigError, match="train_wording"):
        Wording.load(few)
    with pytest.raises(ConfigError, match="threshold"):
        DirectedSpeech(threshold=1.0)
