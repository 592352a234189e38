"""Writes a sentence as a recogniser might have understood it: words that sound like those that were said."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from .phonetics import alignments, phonemes, skeleton

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_COMMON = 3
"""A word that stands at least this often in the texts is one that a recogniser might know."""
_NEAREST = 5
"""Words that a word may be misheard for, where phonemes decide."""
_HEARD_AS = 0.45
"""How unlike two words may sound that are taken for each other, as in ``phonetics.distance``."""
_SHORT = 3
"""Letters up to which a word is mostly a function word, which recognisers drop and put in."""


@dataclass(frozen=True, slots=True)
class MishearingOptions:
    """What goes wrong, and how often. Shares are of the words of a text, 0 to 1.

    Attributes:
        alike: Which words are taken for which. By ``"consonants"``, words for common words, or for two, with the same
            consonants; what comes out is in lower case without marks, as many recognisers write. By ``"phonemes"``,
            words for the few whose phonemes are nearest; words are what stands between blanks, as it is written.
        misheard: Share of words that become others. By consonants it is an average: rare words do more often.
        dropped: Share of long words that vanish.
        short_dropped: The same of short ones.
        split: Share of long words that fall into two.
        inserted: Share of words behind which a short one slips in.

    Raises:
        ValueError: If a value is out of range.
    """

    alike: Literal["consonants", "phonemes"] = "consonants"
    misheard: float = 0.2
    dropped: float = 0.0
    short_dropped: float = 0.0
    split: float = 0.0
    inserted: float = 0.0

    def __post_init__(self) -> None:
        if self.alike not in ("consonants", "phonemes"):
            raise ValueError(f"alike must be 'consonants' or 'phonemes', not {self.alike!r}")
        shares = (self.misheard, self.dropped, self.short_dropped, self.split, self.inserted)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"misheard, dropped, short_dropped, split and inserted are shares between 0 and 1, not {shares}"
            )


class Misheard:
    """Recogniser errors, drawn from the words of some texts: what training on transcripts teaches, without speech.

    It is noise to train with, no model of any recogniser (cf. Tsvetkov et al. 2014,
    https://aclanthology.org/E14-1065).
    """

    def __init__(self, texts: Iterable[str], options: MishearingOptions | None = None) -> None:
        """Learn the vocabulary.

        Args:
            texts: Whose words may be put in.
            options: What goes wrong.
        """
        self.options = options or MishearingOptions()
        self._vocabulary: _Vocabulary = (
            _SameConsonants(texts) if self.options.alike == "consonants" else _NearestPhonemes(texts)
        )
        self._short = [word for word, _ in self._vocabulary.counts.most_common(60) if len(word) <= _SHORT]

    def __call__(self, text: str, rng: random.Random) -> str:
        """One way to misunderstand a sentence; never empty, unless there is no word in it."""
        options, words = self.options, self._vocabulary.words(text)
        heard: list[str] = []
        for word in words:
            if _happens(options.short_dropped if len(word) <= _SHORT else options.dropped, rng):
                continue
            heard += self._heard(word, rng)
            if self._short and _happens(options.inserted, rng):
                heard.append(rng.choice(self._short))
        return " ".join(heard or words)

    def _heard(self, word: str, rng: random.Random) -> list[str]:
        drawn = rng.random()
        if drawn < self.options.misheard * self._vocabulary.odds(word):
            instead = self._vocabulary.instead(word, rng)
            if instead:
                return instead
        if drawn > 1 - self.options.split and len(word) > 5:
            at = rng.randint(2, len(word) - 2)
            return [word[:at], word[at:]]
        return [word]


class _Vocabulary(Protocol):
    counts: Counter[str]

    def words(self, text: str) -> list[str]:
        """The words of a text, as they are counted and put in."""
        ...

    def odds(self, word: str) -> float:
        """How much likelier than on average this word is misheard."""
        ...

    def instead(self, word: str, rng: random.Random) -> list[str]:
        """What a word is taken for; nothing if it sounds like no other."""
        ...


class _SameConsonants:
    """Rare words are taken for common ones, or for two, whose consonants are the same."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts = Counter(word for text in texts for word in self.words(text))
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word, count in self.counts.items():
            if count >= _COMMON and word.isalpha() and (key := skeleton(phonemes(word))):
                self._alike[key].append(word)

    def words(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())

    def odds(self, word: str) -> float:
        return 2.0 if self.counts[word] < _COMMON * 4 else 0.6

    def instead(self, word: str, rng: random.Random) -> list[str]:
        key = skeleton(phonemes(word))
        # Where nothing sounds alike, one consonant less may.
        for sounds in (key, *rng.sample([key[:at] + key[at + 1 :] for at in range(len(key))], len(key))):
            choices = self._choices(word, sounds, rng)
            if choices:
                return rng.choices(choices, [min(self.counts[part] for part in choice) for choice in choices])[0]
        return []

    def _choices(self, word: str, sounds: str, rng: random.Random) -> list[list[str]]:
        choices: list[list[str]] = [[other] for other in self._alike.get(sounds, ()) if other != word]
        for at in range(1, len(sounds)):
            first, second = self._alike.get(sounds[:at]), self._alike.get(sounds[at:])
            if first and second:
                choices.append([self._likely(first, rng), self._likely(second, rng)])
        return choices

    def _likely(self, words: list[str], rng: random.Random) -> str:
        return rng.choices(words, [self.counts[word] for word in words])[0]


class _NearestPhonemes:
    """Words are taken for those whose phonemes lie nearest."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts = Counter(word for text in texts for word in self.words(text))
        self._alike = _nearest(sorted(self.counts))

    def words(self, text: str) -> list[str]:
        return text.split()

    def odds(self, word: str) -> float:
        return 1.0

    def instead(self, word: str, rng: random.Random) -> list[str]:
        alike = self._alike.get(word)
        return [rng.choice(alike)] if alike else []


def _happens(share: float, rng: random.Random) -> bool:
    """Whether something happens; what never does draws no number, so that it changes nothing else."""
    return share > 0 and rng.random() < share


def _nearest(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each word those that sound most like it, if any are near."""
    spoken = [(word, sounds) for word in words for sounds in (phonemes(word),) if sounds]
    lengths = np.array([len(sounds) for _, sounds in spoken])
    nearest = {}
    for row, (word, sounds) in enumerate(spoken):
        near = np.flatnonzero(np.abs(lengths - len(sounds)) <= 2)
        costs = alignments([spoken[place][1] for place in near], sounds, [0])[:, 0, -1]
        apart = costs / np.maximum(lengths[near], len(sounds))
        order = [place for place in np.argsort(apart, kind="stable") if near[place] != row][:_NEAREST]
        nearest[word] = tuple(spoken[near[place]][0] for place in order if apart[place] <= _HEARD_AS)
    return nearest
