"""How words sound, and how far sounds lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.speech.lists.phonetics import alignments, distance, omissions, phonemes, pronounce, substitutions


@pytest.mark.parametrize(("a", "b"), [("ate", "8"), ("for", "four"), ("two", "too"), ("16", "sixteen"), ("I'm", "i’m")])
def test_what_sounds_the_same_has_no_distance(a, b):
    assert distance(a, b) == 0.0 and phonemes(a) == phonemes(b) != ()


@pytest.mark.parametrize(
    ("said", "near", "far"),
    [
        ("mocha", "mocker", "latte"),
        ("iced mocha", "isemoka", "iced coffee"),
        ("eight ounce", "A-towns", "twelve ounce"),
        ("skim milk", "skin milk", "soy milk"),
        ("three", "tree", "four"),
        ("seven", "heaven", "nine"),
    ],
)
def test_what_is_misheard_lies_nearer_than_what_is_not(said, near, far):
    assert 0 < distance(said, near) < distance(said, far) <= 1.3
    assert distance(said, near) == pytest.approx(distance(near, said))


def test_words_know_their_place_in_the_text():
    text = "A 16-ounce latte, please!"
    assert [text[word.start : word.end] for word in pronounce(text)] == ["A", "16", "ounce", "latte", "please"]
    assert pronounce("… ?!") == () and phonemes("") == ()
    assert distance("", "…") == 0.0 and distance("", "mocha") == 1.0


def test_costs_are_a_symmetric_distance():
    swap, skip = substitutions(), omissions()
    assert np.array_equal(swap, swap.T) and not swap.diagonal().any()
    assert (swap + np.eye(len(swap)) > 0).all() and swap.max() <= 1.3
    assert skip.shape == (len(swap),) and 0 < skip.min() <= skip.max() <= 1


def plain(said, heard):
    """The textbook's loop, to compare with."""
    swap, skip = substitutions(), omissions()
    row = np.concatenate([[0.0], np.cumsum(skip[list(heard)])])
    for phoneme in said:
        new = [row[0] + skip[phoneme]]
        for place, other in enumerate(heard):
            new.append(min(row[place] + swap[phoneme, other], row[place + 1] + skip[phoneme], new[-1] + skip[other]))
        row = np.array(new)
    return row


def test_alignments_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    n = len(omissions())
    heard = rng.integers(n, size=9).tolist()
    said = [rng.integers(n, size=size).tolist() for size in (4, 7, 0, 1, 7)]
    found = alignments(said, heard, [0, 3, 9])
    assert found.shape == (5, 3, 10)
    for number, phrase in enumerate(said):
        for place, start in enumerate((0, 3, 9)):
            assert np.isinf(found[number, place, :start]).all()
            assert found[number, place, start:] == pytest.approx(plain(phrase, heard[start:]))
