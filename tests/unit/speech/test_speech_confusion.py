"""The confusion network: who competes for which place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech import Hypothesis, Transcript, Word
from vivavoce.speech.lists.confusion import ConfusionNetwork

WORDS = st.lists(st.sampled_from(["a", "sea", "see", "the", "thing", "I"]), min_size=1, max_size=6).map(" ".join)


def heard(*texts: str, step: float = 0.5) -> Transcript:
    return Transcript(tuple(Hypothesis(text, -step * i, 3) for i, text in enumerate(texts)), "en", 0.0, 1.0)


def test_words_meet_the_words_they_resemble():
    network = ConfusionNetwork.of(heard("Satina went into the washroom.", "So Tina went into the washroom"))
    assert network.rows == (
        ("", "Satina", "went", "into", "the", "washroom."),
        ("So", "Tina", "went", "into", "the", "washroom"),
    )
    assert [choice.text for choice in network.slots[0].choices] == ["", "So"]
    assert [len(slot.choices) for slot in network.slots] == [2, 2, 1, 1, 1, 1]


def test_the_majority_of_the_probability_wins_each_slot():
    network = ConfusionNetwork.of(heard("ice cream now", "I scream now", "I scream no", step=0.0))
    assert network.best() == "I scream now"
    assert network.slots[0].probability("i") == pytest.approx(2 / 3)


def test_a_word_that_few_have_is_left_out():
    assert ConfusionNetwork.of(heard("go home", "go to home", "go home now", step=0.0)).best() == "go home"


@given(st.lists(WORDS, min_size=1, max_size=5), st.floats(0.1, 5))
def test_rows_are_the_hypotheses_and_slots_are_distributions(texts, temperature):
    network = ConfusionNetwork.of(heard(*texts), temperature=temperature)
    assert [" ".join(word for word in row if word) for row in network.rows] == texts
    for slot in network.slots:
        assert math.fsum(choice.probability for choice in slot.choices) == pytest.approx(1.0)
        assert slot.entropy >= 0.0


@given(WORDS)
def test_a_list_of_one_is_certain(text):
    network = ConfusionNetwork.of(heard(text))
    assert network.best() == text and all(word.probability == 1.0 for word in network.words())


def test_times_come_from_the_hypotheses():
    words = (Word("go", 0.1, 0.3, 0.9), Word("home", 0.3, 0.8, 0.8))
    transcript = Transcript((Hypothesis("go home", -1.0, 3, words), Hypothesis("go Rome", -2.0, 3)), "en", 0.0, 1.0)
    network = ConfusionNetwork.of(transcript)
    assert [(word.start, word.end) for word in network.words()] == [(0.1, 0.3), (0.3, 0.8)]
    assert network.words()[1].probability == pytest.approx(transcript.posteriors()[0])
    assert math.isnan(ConfusionNetwork.of(heard("go")).words()[0].start)


def test_it_is_drawn_and_escaped():
    network = ConfusionNetwork.of(heard("<b> home", "home"))
    assert network.drawn().splitlines()[1] == "home 1.00" and "∅" in network.drawn()
    assert "&lt;b&gt;" in network._repr_html_() and "<b>" not in network._repr_html_()


def test_silence_has_no_slots_and_bad_rows_are_refused():
    network = ConfusionNetwork.of(Transcript.nothing("nobody spoke", 1.0))
    assert network.best() == "" and network.slots == ()
    with pytest.raises(ValueError, match="no hypothesis 0"):
        network.words()
