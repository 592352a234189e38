"""Commands from lists of hypotheses."""

from __future__ import annotations

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.understanding.grammar import Grammar
from vivavoce.agent.understanding.slots import SlotFiller, SlotOptions
from vivavoce.speech import Hypothesis, Transcript

COFFEE = """\
context:
  expressions:
    order:
      - "[can I have, make me, I want] [a, an] $size:size $drink:drink (with $milk:milk)"
      - "[can I have, make me, I want] [a, an] $drink:drink (with $milk:milk)"
    cancel:
      - "cancel my order"
  slots:
    size: [small, large, eight ounce]
    drink: [latte, mocha, iced mocha, iced coffee, house coffee]
    milk: [some skim milk, skim milk, soy milk]
"""


def heard(*scored: tuple[str, float]) -> Transcript:
    return Transcript(tuple(Hypothesis(text, score, 5) for text, score in scored), "en", 0.1, 3.0)


@pytest.fixture(scope="module")
def barista() -> SlotFiller:
    return SlotFiller(Grammar.from_yaml(COFFEE))


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("Make me a large latte with soy milk.", {"size": "large", "drink": "latte", "milk": "soy milk"}),
        ("make me an isemoka", {"drink": "iced mocha"}),
        (
            "I want an A-Towns mocker with some skin milk",
            {"size": "eight ounce", "drink": "mocha", "milk": "some skim milk"},
        ),
        ("Can I have a 8 ounce, um, ice coffee please?", {"size": "eight ounce", "drink": "iced coffee"}),
        ("Large latte.", {"size": "large", "drink": "latte"}),
    ],
)
def test_a_text_is_read_by_its_sound(barista, text, slots):
    command = barista.fill(text)
    assert command.accepted and command.reason == ""
    assert (command.intent, command.slots) == ("order", slots)
    listed = barista.fill(heard((text, -3.0)))
    assert listed.slots == command.slots and listed.confidence == pytest.approx(command.confidence)


def test_an_intent_without_slots(barista):
    assert barista.fill("Cancel my orders!").intent == "cancel"


def test_the_list_outvotes_its_first_hypothesis(barista):
    listed = (("Make me a health coffee.", -1.0), ("Make me an ice coffee.", -1.1), ("Make me an iced coffee.", -1.2))
    assert barista.fill(heard(listed[0])).slots == {"drink": "house coffee"}
    command = barista.fill(heard(*listed))
    assert command.slots == {"drink": "iced coffee"}
    assert {"drink": "house coffee"} in [other.slots for other in command.alternatives]


def test_confidence_is_a_probability_and_falls_with_doubt(barista):
    sure, torn = barista.fill("make me a latte"), barista.fill("make me a lotty mocha coffee")
    assert 0 < torn.confidence < sure.confidence <= 1
    shares = [other.confidence for other in sure.alternatives]
    assert shares == sorted(shares, reverse=True) and sum(shares) + sure.confidence <= 1 + 1e-9


@pytest.mark.parametrize(
    "text", ["What time do you close on Sunday?", "Hello, how are you today?", "I lost my umbrella."]
)
def test_what_is_no_command_is_refused_with_the_nearest(barista, text):
    command = barista.fill(text)
    assert not command.accepted and command.slots == {}
    assert text in command.reason and "the nearest is" in command.reason and command.alternatives


def test_nothing_heard_is_refused_with_the_recognisers_reason(barista):
    assert barista.fill(Transcript.nothing("nobody spoke", 1.0)).reason == "nobody spoke"
    assert "no words" in barista.fill("…").reason


def test_value_lists_find_values_among_any_words():
    filler = SlotFiller(Grammar.from_values({"light": {"room": ["kitchen", "living room"], "state": ["on", "off"]}}))
    assert filler.fill("could you turn on the lights in the livingroom for me").slots == {
        "room": "living room",
        "state": "on",
    }
    assert filler.fill("it is dark in the kitchen").slots == {"room": "kitchen"}
    assert not filler.fill("how are you today").accepted
    assert filler.prompt == "kitchen, living room, on, off."


@pytest.mark.parametrize(
    "change",
    [
        {"sharpness": 0},
        {"temperature": -1},
        {"missed": 0},
        {"filler": 0},
        {"loose_filler": 2},
        {"omission": 0},
        {"refusal": 0},
        {"candidates": 0},
    ],
)
def test_bad_options_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        SlotOptions(**change)


def test_a_phrase_without_sound_is_refused():
    with pytest.raises(ConfigError, match="has no sound"):
        SlotFiller(Grammar.from_values({"a": {"b": ["?!"]}}))
