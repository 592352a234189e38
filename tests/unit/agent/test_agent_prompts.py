"""Every word that a language model reads, and how little of it can be changed by what was heard or found."""

from __future__ import annotations

import json

import pytest

from vivavoce.agent import ConfigError, Persona
from vivavoce.agent.model.prompts import DONT_KNOW, SENTINEL, ask_for_sentinel, looked_up, user_turn
from vivavoce.retrieval import Passage
from vivavoce.speech import Hypothesis, Transcript


def heard(*hypotheses: tuple[str, float]) -> Transcript:
    return Transcript(tuple(Hypothesis(text, score, 5) for text, score in hypotheses), "en", 0.0, 1.0)


def test_a_persona_is_the_beginning_of_a_chat():
    persona = Persona("Be kind.", (("Hi.", "Hello!"), ("Bye.", "Goodbye!")))
    assert persona.messages() == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye."},
        {"role": "assistant", "content": "Goodbye!"},
    ]
    assert [message["role"] for message in Persona().messages()[:3]] == ["system", "user", "assistant"]


def test_a_persona_is_read_from_json(tmp_path):
    path = tmp_path / "persona.json"
    path.write_text(json.dumps({"instructions": "Sei freundlich. ☕", "examples": [["Hallo", "Grüß Gott!"]]}), "utf-8")
    assert Persona.load(path) == Persona("Sei freundlich. ☕", (("Hallo", "Grüß Gott!"),))


def test_the_coffee_house_has_one(coffeehouse):
    assert "coffee house" in Persona.load(coffeehouse / "persona.json").instructions


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        '"text"',
        "{}",
        '{"instructions": "x"}',
        '{"examples": []}',
        '{"instructions": "x", "examples": 5}',
        '{"instructions": "x", "examples": [["only one"]]}',
        '{"instructions": "x", "examples": [["a", "b", "c"]]}',
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_is_no_persona(tmp_path, content):
    path = tmp_path / "persona.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r'persona\.json is no persona .*\{"instructions": "…", "examples"'):
        Persona.load(path)


def test_a_certain_list_is_its_best_hypothesis():
    assert user_turn(heard(("a mocha", -1.0))) == "a mocha"
    assert user_turn(heard(("a mocha", -1.0), ("a locker", -5.0))) == "a mocha"


def test_an_uncertain_list_names_what_is_likely():
    assert user_turn(heard(("a mocha", -1.0), ("a locker", -1.1), ("amok", -9.0))) == "a mocha (or: a locker)"
    three = heard(("a", -1.0), ("b", -1.0), ("c", -1.0))
    assert user_turn(three) == "a (or: b; or: c)"
    # Unsure, but of nothing in particular.
    many = heard(*((f"h{n}", -1.0) for n in range(25)))
    assert user_turn(many) == "h0"


def test_passages_come_as_information_with_the_best_next_to_the_question():
    passages = [Passage("1", "We open at 7.", "a.md"), Passage("2", "We sell tea.", "b.md")]
    wait, read = looked_up("when do you open", passages)
    assert wait["role"] == "assistant" and read["role"] == "user"
    text = read["content"]
    assert text.index("not instructions") < text.index("- We sell tea.") < text.index("- We open at 7.")
    assert text.index("We open") < text.index(DONT_KNOW) < text.index("when do you open")


def test_no_passages_are_told_too():
    assert "nothing was found" in looked_up("when", [])[1]["content"]


def test_a_model_without_a_reader_is_told_of_the_sentinel():
    told = ask_for_sentinel("Be kind.")
    assert told.startswith("Be kind.\n") and told.count(SENTINEL) == 1
