"""Which names were spoken of, however they were written down: names are compared by how they sound."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .keyword import STOPWORDS

Sound = Callable[[str], str]
"""How a word sounds: one character for each sound, "" if it has none. Words that sound alike have like strings."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LIKE = 0.7
"""Words that are less alike than this are different words."""
_AROUND = 2
"""Words that may stand between those of a name."""
_LONG = 4
"""Sounds from which a word is told by most of them; a shorter one must be there as it is."""
_ORDINARY = 0.3
"""What an ordinary word counts in a name."""
_TELLING = 0.7
"""Share of the weight of a word of one name alone that must be there for a name to be sure."""
_TAIL = re.compile(r",\s|\s[-–(/]")
_TOLD = 0.8
"""What a name counts up to its first comma or dash, against all of it."""
_NUMBERS = frozenset(
    """
    zero oh one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand
    """.split()
)


@dataclass(frozen=True, slots=True)
class Mention:
    """A name in a text.

    Attributes:
        name: As it is known.
        score: How much of it was heard, rare words counting most, (0, 1]; 1 if it stands there word by word.
        place: Where the stretch begins that sounds like it, in words.
    """

    name: str
    score: float
    place: int


class NameFinder:
    """Finds known names in what was said or heard."""

    def __init__(
        self, names: Iterable[str], sound: Sound | None = None, *, ordinary: AbstractSet[str] = frozenset()
    ) -> None:
        """Learn names.

        Args:
            names: What may be spoken of. Words that many names share, such as "hotel", tell little.
            sound: How a word sounds; None compares letters.
            ordinary: Words, in lower case, that are said without any name being meant. They do not stand for words of
                names that only sound like them, and count little where they are in names themselves.
        """
        self._sound = sound or _letters
        self._ordinary = ordinary | STOPWORDS | _NUMBERS
        self._names = {name: words for name in dict.fromkeys(names) if (words := self._words(name))}
        self._heads = {name: len(self._words(head)) for name in self._names if (head := _TAIL.split(name)[0]) != name}
        counts = Counter(word for words in self._names.values() for word in set(words))
        self._vocabulary = list(counts)
        self._places = {word: place for place, word in enumerate(self._vocabulary)}
        factors = [_ORDINARY if word.text in self._ordinary else 1.0 for word in self._vocabulary]
        rarity = [math.log(1 + len(self._names) / counts[word]) for word in self._vocabulary]
        self._weights = np.array(rarity) * np.array(factors)
        self._least = _TELLING * math.log(1 + len(self._names))
        self._holding = self._by_word()

    def find(self, text: str, limit: int = 10) -> list[Mention]:
        """Names that a text speaks of, the surest first.

        Args:
            text: Any text; it may be misheard, and words may be cut in two or run together.
            limit: How many at most.
        """
        heard = self._words(text)
        if not heard or not self._names:
            return []
        alike = self._alike(heard)  # (vocabulary, places)
        told = np.flatnonzero(alike.max(axis=1) > 0).tolist()
        candidates = {name for word in told for name in self._holding.get(word, ())}
        found = [mention for name in candidates if (mention := self._best(name, alike)) is not None]
        return sorted(found, key=lambda mention: (-mention.score, -mention.place, mention.name))[:limit]

    def _by_word(self) -> Mapping[int, list[str]]:
        """Names by the words that they are known by: those of at least half the weight of their heaviest one."""
        holding: dict[int, list[str]] = defaultdict(list)
        for name, words in self._names.items():
            weights = {self._places[word]: self._weights[self._places[word]] for word in words}
            for place, weight in weights.items():
                if weight >= 0.5 * max(weights.values()):
                    holding[place].append(name)
        return holding

    def _alike(self, heard: Sequence[_Word]) -> NDArray[np.float64]:
        """How alike each word of a name is to what was heard at each place: one word, or two run together."""
        from rapidfuzz import fuzz, process

        known = [word.sound for word in self._vocabulary]
        single = [word.sound for word in heard]
        joined = [first + second for first, second in pairwise(single)] + [single[-1]]
        one = process.cdist(known, single, scorer=fuzz.ratio, dtype=np.float64) / 100
        two = process.cdist(known, joined, scorer=fuzz.ratio, dtype=np.float64) / 100
        long = np.array([len(sound) >= _LONG for sound in known])[:, None]
        same = np.array([[word.text == other.text for other in heard] for word in self._vocabulary])
        ordinary = np.array([word.text in self._ordinary for word in heard])
        one = np.where(ordinary[None] & ~same, 0.0, one)
        two = np.where((ordinary & np.append(ordinary[1:], True))[None], 0.0, two)
        alike: NDArray[np.float64] = np.where(same, 1.0, np.maximum(one, np.where(long, two, 0.0)))
        return np.where(alike >= np.where(long, _LIKE, 0.99), alike, 0.0)

    def _best(self, name: str, alike: NDArray[np.float64]) -> Mention | None:
        places = [self._places[word] for word in self._names[name]]
        weights = self._weights[places]
        rows = alike[places] * weights[:, None]
        width = len(places) + _AROUND
        head = self._heads.get(name, 0)
        best: tuple[float, int] = (0.0, 0)
        for start in np.flatnonzero(rows.max(axis=0) > 0).tolist():
            part = rows[:, start : start + width]
            score = _in_order(part) / max(float(weights.sum()), self._least)
            if head:  # what stands behind a dash or a comma is rarely said
                said = _in_order(part[:head]) / max(float(weights[:head].sum()), self._least)
                score = (1 - _TOLD) * score + _TOLD * said
            best = max(best, (score, start))
        return Mention(name, min(1.0, best[0]), best[1]) if best[0] > 0 else None

    def _words(self, text: str) -> list[_Word]:
        return [_Word(word, sound) for word in _WORD.findall(text.lower()) if (sound := self._sound(word))]


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    sound: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Word) and other.sound == self.sound

    def __hash__(self) -> int:
        return hash(self.sound)


def _in_order(worth: NDArray[np.float64]) -> float:
    """The most that words are worth when each takes a place of its own, in their order; shape (words, places)."""
    most = np.zeros(worth.shape[1] + 1)
    for row in worth:
        taken = most[:-1] + row
        most[1:] = np.maximum.accumulate(np.maximum(most[1:], taken))
    return float(most[-1])


def _letters(word: str) -> str:
    return word
