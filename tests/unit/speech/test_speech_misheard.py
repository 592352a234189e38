"""Texts as a recogniser might have heard them."""

from __future__ import annotations

import random

import pytest

from vivavoce.speech.lists.misheard import Misheard, MishearingOptions


def test_words_become_others_with_the_same_consonants():
    texts = ["the knight rode at night to the light"] * 4 + ["write right away"] * 4
    misheard = Misheard(texts, MishearingOptions(misheard=1.0))
    heard = {misheard("The knight, right?", random.Random(seed)) for seed in range(20)}
    assert any("night" in text.split() for text in heard) and any("write" in text.split() for text in heard)
    assert all(text == text.lower() and "," not in text for text in heard)
    never = MishearingOptions(misheard=0.0)
    assert Misheard(texts, never)("The knight, right?", random.Random(0)) == "the knight right"
    assert misheard("", random.Random(0)) == ""


def test_words_become_those_with_the_nearest_phonemes_vanish_and_fall_apart():
    texts = ["I want to hear a song", "turn right here", "they read the red book", "their kitchen is there"] * 3
    rng = random.Random(0)
    misheard = Misheard(texts, MishearingOptions("phonemes", misheard=0.5))
    heard = {misheard("turn right here", rng) for _ in range(50)}
    assert "turn right hear" in heard and "turn right here" in heard
    assert all(len(text.split()) == 3 for text in heard)
    drops = Misheard(texts, MishearingOptions("phonemes", misheard=0.0, dropped=1.0))
    assert drops("I want to hear", rng) == "I to" and drops("want hear", rng) == "want hear"
    splits = Misheard(texts, MishearingOptions("phonemes", misheard=0.0, split=1.0))
    assert splits("their kitchen", rng).replace(" ", "") == "theirkitchen"
    assert len(splits("their kitchen", rng).split()) == 3
    puts_in = Misheard(texts, MishearingOptions(misheard=0.0, inserted=1.0))
    assert len(puts_in("turn right", rng).split()) == 4


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="consonants"):
        MishearingOptions(alike="spelling")
    with pytest.raises(ValueError, match="between 0 and 1"):
        MishearingOptions(dropped=1.5)
