"""Choosers: what is taken from a list, and when not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech import Hypothesis, Transcript
from vivavoce.speech.lists.choosing import (
    BayesChooser,
    FirstChooser,
    LanguageChooser,
    LanguageOptions,
    RoverChooser,
    sentence,
)
from vivavoce.speech.lists.evidence import unlike
from vivavoce.speech.lists.nbest import word_distances

TEXTS = st.lists(
    st.lists(st.sampled_from("a sea see the thing".split()), min_size=1, max_size=5), min_size=1, max_size=5
)


class LikesWords:
    """Nats for each word that it knows, a penalty for each that it does not."""

    def __init__(self, known: str) -> None:
        self.known = {key.strip(".").lower() for key in known.split()}
        self.contexts: list[str] = []

    def score(self, texts: Sequence[str], *, context: str = "") -> list[float]:
        self.contexts.append(context)
        return [sum(-3.0 if w.strip(".").lower() in self.known else -20.0 for w in text.split()) for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def heard(*texts: str, step: float = 0.5, language: str = "en") -> Transcript:
    return Transcript(tuple(Hypothesis(text, -step * i, 3) for i, text in enumerate(texts)), language, 0.0, 1.0)


CHOOSERS = [FirstChooser(), RoverChooser(), BayesChooser(), LanguageChooser(LikesWords("the sea"))]


@pytest.mark.parametrize("chooser", CHOOSERS, ids=lambda c: type(c).__name__)
def test_a_list_of_one_comes_back_unchanged_and_silence_stays_empty(chooser):
    choice = chooser.choose(heard("Hm, I said SO."))
    assert (choice.text, choice.index, choice.confidence, choice.abstained) == ("Hm, I said SO.", 0, 1.0, False)
    nothing = chooser.choose(Transcript.nothing("nobody spoke", 1.0))
    assert (nothing.text, nothing.index, nothing.confidence) == ("", None, 0.0)


@pytest.mark.parametrize("chooser", CHOOSERS, ids=lambda c: type(c).__name__)
@given(texts=TEXTS)
def test_no_word_comes_from_outside_of_the_list(chooser, texts):
    transcript = heard(*{" ".join(words): None for words in texts})
    choice = chooser.choose(transcript)
    assert set(choice.text.split()) <= {word for words in texts for word in words}
    if choice.index is not None:
        assert choice.text == transcript.hypotheses[choice.index].text
    assert 0.0 <= choice.confidence <= 1.0 + 1e-9


def test_rover_puts_together_what_no_hypothesis_has():
    choice = RoverChooser().choose(heard("ban see a ship", "band see a chip", "band sea a ship", step=0.0))
    assert (choice.text, choice.index) == ("band see a ship", None)


def test_bayes_takes_the_one_in_the_middle():
    middle = heard("a b c d", "a x c d", "a x y d", step=0.1)
    assert BayesChooser().choose(middle).index == 1
    assert FirstChooser().choose(middle).index == 0


def test_language_takes_the_word_that_exists_and_sounds_alike():
    scorer = LikesWords("the band played on")
    choice = LanguageChooser(scorer).choose(heard("the bant played on", "the band played on"), context="At nine.")
    assert (choice.text, choice.index, choice.abstained) == ("the band played on", 1, False)
    assert scorer.contexts == ["At nine."]


def test_language_does_not_replace_a_word_by_one_that_sounds_different():
    choice = LanguageChooser(LikesWords("the philharmonic played on")).choose(
        heard("the bant played on", "the philharmonic played on")
    )
    assert choice.index == 0


@pytest.mark.parametrize(
    ("best", "other"), [("eight the press yard", "the press yard"), ("call 55", "call 54"), ("so he said", "he said")]
)
def test_language_changes_no_number_and_leaves_out_no_word(best, other):
    choice = LanguageChooser(
        LikesWords(other), options=LanguageOptions(weights={"heard": 1.0, "language": 9.0, "sound": 1.5})
    ).choose(heard(best, other))
    assert (choice.index, choice.abstained) == (0, True)


def test_language_abstains_where_the_gain_is_too_small():
    list_of_two = heard("the bant played on", "the band played on")
    scorer = LikesWords("the band played on")
    gain = LanguageChooser(scorer, options=LanguageOptions(weights={"language": 1.0, "other": 1e6})).choose(list_of_two)
    assert (gain.index, gain.abstained) == (0, True)


def test_language_keeps_the_best_of_what_is_not_english():
    chooser = LanguageChooser(LikesWords("das haus"))
    assert chooser.choose(heard("das hauz", "das haus", language="de")).index == 0


@pytest.mark.parametrize("bad", [{"weights": {"loud": 1.0}}, {"weights": {"heard": float("nan")}}, {"longest": 0}])
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LanguageOptions(**bad)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature"):
        RoverChooser(temperature=0)


@pytest.mark.parametrize(
    ("text", "plain"), [("i SAID, so!", "I said so."), ("Wi-fi 'n' I'm", "Wi-fi n I'm."), ("", ""), ("?!", "")]
)
def test_a_sentence_is_written_one_way(text, plain):
    assert sentence(text).lower() == plain.lower() and (not plain or sentence(text)[0].isupper())


def test_distances():
    assert word_distances(["a b c".split(), "a x c d".split(), []]).tolist() == [[0, 2, 3], [2, 0, 4], [3, 4, 0]]
    assert unlike("Their.", "There.") == 0.0 < unlike("band", "ban") < unlike("band", "orchestra")
