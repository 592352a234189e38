"""Writes a sentence as a recogniser might have understood it: words that sound like those that were said."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from .phonetics import phonemes, skeleton

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_COMMON = 3
"""A word that stands at least this often in the texts is one that a recogniser might know."""


class Misheard:
    """Recogniser errors, drawn from the words of some texts.

    Rare words are taken for common ones, or for two, whose consonants are the same; what remains is in lower case
    without marks, as many recognisers write. It is noise to train with, no model of any recogniser.
    """

    def __init__(self, texts: Iterable[str], *, rate: float = 0.2) -> None:
        """Learn the vocabulary.

        Args:
            texts: Whose words may be put in.
            rate: Share of the words that are misheard on average; rare words more often than common ones.
        """
        self._counts = Counter(word for text in texts for word in _words(text))
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word, count in self._counts.items():
            if count >= _COMMON and word.isalpha() and (key := skeleton(phonemes(word))):
                self._alike[key].append(word)
        self._rate = rate

    def __call__(self, text: str, rng: random.Random) -> str:
        """One way to misunderstand a sentence, in lower case."""
        heard: list[str] = []
        for word in _words(text):
            rare = self._counts[word] < _COMMON * 4
            if rng.random() >= self._rate * (2.0 if rare else 0.6):
                heard.append(word)
            else:
                heard += self._instead(word, rng)
        return " ".join(heard)

    def _instead(self, word: str, rng: random.Random) -> list[str]:
        key = skeleton(phonemes(word))
        # Where nothing sounds alike, one consonant less may.
        for sounds in (key, *rng.sample([key[:at] + key[at + 1 :] for at in range(len(key))], len(key))):
            choices = self._choices(word, sounds, rng)
            if choices:
                return rng.choices(choices, [min(self._counts[part] for part in choice) for choice in choices])[0]
        return [word]

    def _choices(self, word: str, sounds: str, rng: random.Random) -> list[list[str]]:
        choices: list[list[str]] = [[other] for other in self._alike.get(sounds, ()) if other != word]
        for at in range(1, len(sounds)):
            first, second = self._alike.get(sounds[:at]), self._alike.get(sounds[at:])
            if first and second:
                choices.append([self._likely(first, rng), self._likely(second, rng)])
        return choices

    def _likely(self, words: list[str], rng: random.Random) -> str:
        return rng.choices(words, [self._counts[word] for word in words])[0]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
