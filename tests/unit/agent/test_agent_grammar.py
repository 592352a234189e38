"""Grammars: what they hold, and what is said about broken ones."""

from __future__ import annotations

import json

import pytest

from vivavoce.agent.errors import ConfigError
from vivavoce.agent.understanding.grammar import Grammar, Step

LIGHTS = """\
context:
  expressions:
    switch:
      - "(please) [turn, switch] $state:state the @lamp (in the $room:room)"
      - "make it $state:state"
    stop:
      - stop
  slots:
    state: ["on", "off"]
    room: [kitchen, living room]
  macros:
    lamp: [light, "[reading, big] lamp"]
"""


def sentences(grammar, node):
    """All of them, from a node on."""
    if node in grammar.ends:
        yield ""
    for step, there in grammar.edges[node]:
        for phrase in step.phrases:
            for rest in sentences(grammar, there):
                yield f"{phrase} {rest}".strip()


def test_choices_options_macros_and_slots():
    grammar = Grammar.from_yaml(LIGHTS)
    assert not grammar.loose and set(grammar.roots) == {"switch", "stop"}
    assert set(sentences(grammar, grammar.roots["stop"])) == {"stop"}
    said = list(sentences(grammar, grammar.roots["switch"]))
    assert len(said) == len(set(said)) == 2 * 2 * 2 * 3 * 3 + 2
    assert {"make it off", "please switch on the reading lamp in the living room", "turn off the light"} <= set(said)
    assert grammar.values == {"state": ("on", "off"), "room": ("kitchen", "living room")}


def test_equal_continuations_are_one_node():
    text = "context: {expressions: {a: ['[x y, z] $s:s w', 'q $s:s w', 'x y $s:s w']}, slots: {s: [one, two]}}"
    grammar = Grammar.from_yaml(text)
    assert len(grammar.edges) == 4, "end, before w, before the slot, root"
    assert all(there < node for node, edges in enumerate(grammar.edges) for _, there in edges)


def test_value_lists_take_any_order_and_each_slot_once():
    grammar = Grammar.from_values({"light": {"room": ["hall"], "state": ["on", "off"]}})
    assert grammar.loose and Step(("on", "off"), "state") in grammar.steps
    said = set(sentences(grammar, grammar.roots["light"]))
    assert {"hall", "on", "hall off", "off hall"} <= said and "" not in said


def test_files(tmp_path):
    (tmp_path / "g.yaml").write_text(LIGHTS)
    (tmp_path / "g.json").write_text(json.dumps({"light": {"state": ["on"]}}))
    assert Grammar.load(tmp_path / "g.yaml") == Grammar.from_yaml(LIGHTS)
    assert Grammar.load(tmp_path / "g.json").loose
    (tmp_path / "g.txt").write_text("on")
    (tmp_path / "bad.json").write_text("{")
    for name, words in (("g.txt", r"\.yaml"), ("bad.json", "no JSON"), ("absent.yaml", "cannot read")):
        with pytest.raises(ConfigError, match=words):
            Grammar.load(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("$state:state the", "$colour:state the", r"line 4: there is no slot list 'colour' \(there are: state, room\)"),
        ("@lamp (in", "@lamps (in", "line 4: there is no macro 'lamps'"),
        ("[turn, switch]", "[turn, switch", r"line 4: a \[ is never closed"),
        ("[turn, switch]", "[turn, ]", "line 4: one of the choices"),
        ("make it", "make ) it", r"line 5: '\)' closes nothing"),
        ('"[reading, big] lamp"', '"@lamp lamp"', "line 12: the macro 'lamp' holds itself"),
        ('["on", "off"]', "[]", "line 4: the slot list 'state' is empty"),
        ("- stop", '- ""', "line 7: the expression is empty"),
        ("- stop", "- [stop, halt]", r'line 7: .*"quotes"'),
        ("- stop", "stop", "line 7: expected a list"),
        ("expressions:", "sentences:", "there are no expressions"),
        ("context:", "context: [", "no YAML.*line"),
    ],
)
def test_a_broken_grammar_is_refused_with_the_line(old, new, words):
    with pytest.raises(ConfigError, match=words):
        Grammar.from_yaml(LIGHTS.replace(old, new, 1))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "value lists are"),
        ([], "value lists are"),
        ({"light": {}}, "'light' needs"),
        ({"light": {"room": []}}, "slot 'room' of intent 'light' needs a list"),
        ({"light": {"room": "hall"}}, "needs a list"),
        ({"light": {"room": [1]}}, "needs a list"),
    ],
)
def test_broken_value_lists_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        Grammar.from_values(values)
