"""Correcting a long text: every edit has a place."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech import Hypothesis, Transcript
from vivavoce.speech.lists.choosing import Choice
from vivavoce.speech.lists.fulltext import CorrectedText, Edit, FullTextCorrector

TEXT = st.lists(st.sampled_from(["One", "two.", "three,", "four"]), min_size=1, max_size=5).map(" ".join)


class Second:
    """Takes the second hypothesis, if there is one."""

    def choose(self, transcript: Transcript, *, context: str = "") -> Choice:
        index = min(1, len(transcript.hypotheses) - 1)
        return Choice(transcript.hypotheses[index].text, "second", index, 1.0)


class Wants:
    """Prefers texts with a phrase by five nats."""

    def __init__(self, phrase: str) -> None:
        self.phrase = phrase

    def score(self, texts: Sequence[str], *, context: str = "") -> list[float]:
        return [0.0 if self.phrase in text else -5.0 for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def window(*texts: str) -> Transcript:
    return Transcript(tuple(Hypothesis(text, -float(i), 3) for i, text in enumerate(texts)), "en", 0.0, 1.0)


def test_without_a_reason_nothing_changes():
    corrected = FullTextCorrector().correct([window("One two."), Transcript.nothing("noise", 1.0), window("Three.")])
    assert (corrected.text, corrected.edits) == ("One two. Three.", ())


def test_a_chosen_word_is_an_edit_with_its_place():
    corrected = FullTextCorrector(Second()).correct([window("He said."), window("Their it is.", "There it is.")])
    assert corrected.text == "He said. There it is."
    assert corrected.edits == (Edit(9, 14, "Their", "There", "chosen"),)


def test_a_sentence_that_goes_on_is_joined():
    corrected = FullTextCorrector(scorer=Wants("went to the")).correct([window("He went to."), window("The house.")])
    assert corrected.text == "He went to the house."
    assert [(edit.before, edit.after, edit.reason) for edit in corrected.edits] == [
        ("to.", "to", "joined"),
        ("The", "the", "joined"),
    ]


def test_a_sentence_that_ends_gets_its_stop():
    corrected = FullTextCorrector(scorer=Wants("went. The")).correct([window("He went"), window("the house fell.")])
    assert corrected.text == "He went. The house fell."
    assert {edit.reason for edit in corrected.edits} == {"sentence"}


def test_an_edit_below_the_margin_is_not_made():
    corrected = FullTextCorrector(scorer=Wants("went. The"), margin=6.0).correct([window("He went"), window("the end")])
    assert corrected.edits == ()


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_the_edits_lead_from_the_original_to_the_text_and_survive_json(pairs):
    corrected = FullTextCorrector(Second()).correct([window(*pair) for pair in pairs])
    assert corrected.original == " ".join(first for first, _ in pairs)
    assert corrected.text == " ".join(second for _, second in pairs)
    assert CorrectedText.from_json(corrected.to_json()) == corrected


def test_json_has_the_agreed_keys_and_what_does_not_fit_is_refused():
    line = FullTextCorrector(Second()).correct([window("a b", "a c")]).to_json()
    assert json.loads(line)["edits"] == [{"start": 2, "end": 3, "from": "b", "to": "c", "reason": "chosen"}]
    with pytest.raises(ValueError, match="not at 2"):
        CorrectedText.from_json(line.replace('"a b"', '"a x"'))
    with pytest.raises(ValueError, match="expected original and edits"):
        CorrectedText.from_json("{}")
    with pytest.raises(ValueError, match="margin"):
        FullTextCorrector(margin=-1.0)
