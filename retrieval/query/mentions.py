"""Known names in a transcript: they are matched by sound, so that a misheard name is found too."""

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
from .sounds import LIKE

Sound = Callable[[str], str]
"""How a word sounds: one character for each sound, "" if it has none. Words that sound alike have like strings."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_MAX_GAP = 2
"""Words that may stand between those of a name."""
_LONG_SOUND = 4
"""Sounds of a word from which on it may be matched approximately; a shorter one must match exactly."""
_ORDINARY_WEIGHT = 0.3
"""Weight of an ordinary word in a name, against 1 for any other."""
_MIN_WEIGHT_SHARE = 0.7
"""A name's weight counts as at least this share of that of a word unique to one name."""
_TAIL = re.compile(r",\s|\s[-–(/]")
_HEAD_WEIGHT = 0.8
"""Weight of the part of a name before its first comma or dash; the whole name has the rest."""
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
        name: The known name.
        score: How much of it was heard, rare words counting most, (0, 1]; 1 if it stands there word by word.
        place: Where the stretch begins that sounds like it, in words.
    """

    name: str
    score: float
    place: int


class NameFinder:
    """Finds known names in transcripts."""

    def __init__(
        self, names: Iterable[str], sound: Sound | None = None, *, ordinary: AbstractSet[str] = frozenset()
    ) -> None:
        """Index names by their words and sounds.

        Args:
            names: The known names. Words that many names share, such as "hotel", count little.
            sound: How a word sounds; None compares letters.
            ordinary: Words, in lower case, that are said without any name being meant. They do not stand for words of
                names that only sound like them, and count little where they are in names themselves.
        """
        self._sound = sound or _as_spelled
        self._ordinary = ordinary | STOPWORDS | _NUMBERS
        self._names = {name: words for name in dict.fromkeys(names) if (words := self._words(name))}
        self._heads = {name: len(self._words(head)) for name in self._names if (head := _TAIL.split(name)[0]) != name}
        counts = Counter(word for words in self._names.values() for word in set(words))
        self._vocabulary = list(counts)
        self._positions = {word: position for position, word in enumerate(self._vocabulary)}
        factors = [_ORDINARY_WEIGHT if word.text in self._ordinary else 1.0 for word in self._vocabulary]
        rarity = [math.log(1 + len(self._names) / counts[word]) for word in self._vocabulary]
        self._weights = np.array(rarity) * np.array(factors)
        self._min_weight = _MIN_WEIGHT_SHARE * math.log(1 + len(self._names))
        self._names_by_word = self._index_names()

    def find(self, text: str, limit: int = 10) -> list[Mention]:
        """Names that a text mentions, the surest first.

        Args:
            text: Any text; it may be misheard, and words may be cut in two or run together.
            limit: How many at most.
        """
        text_words = self._words(text)
        if not text_words or not self._names:
            return []
        similarities = self._similarities(text_words)
        matched = np.flatnonzero(similarities.max(axis=1) > 0).tolist()
        candidates = {name for word in matched for name in self._names_by_word.get(word, ())}
        mentions = [mention for name in candidates if (mention := self._best_mention(name, similarities)) is not None]
        return sorted(mentions, key=lambda mention: (-mention.score, -mention.place, mention.name))[:limit]

    def _index_names(self) -> Mapping[int, list[str]]:
        """Names by their identifying words: those of at least half the weight of the heaviest."""
        names_by_word: dict[int, list[str]] = defaultdict(list)
        for name, words in self._names.items():
            weights = {self._positions[word]: self._weights[self._positions[word]] for word in words}
            for position, weight in weights.items():
                if weight >= 0.5 * max(weights.values()):
                    names_by_word[position].append(name)
        return names_by_word

    def _similarities(self, text_words: Sequence[_Word]) -> NDArray[np.float64]:
        """Similarity of vocabulary words to the text's, single or two joined: shape (vocabulary, positions)."""
        from rapidfuzz import fuzz, process

        known = [word.sound for word in self._vocabulary]
        single = [word.sound for word in text_words]
        joined = [first + second for first, second in pairwise(single)] + [single[-1]]
        single_ratios = process.cdist(known, single, scorer=fuzz.ratio, dtype=np.float64) / 100
        joined_ratios = process.cdist(known, joined, scorer=fuzz.ratio, dtype=np.float64) / 100
        is_long = np.array([len(sound) >= _LONG_SOUND for sound in known])[:, None]
        is_same = np.array([[word.text == other.text for other in text_words] for word in self._vocabulary])
        is_ordinary = np.array([word.text in self._ordinary for word in text_words])
        single_ratios = np.where(is_ordinary[None] & ~is_same, 0.0, single_ratios)
        joined_ratios = np.where((is_ordinary & np.append(is_ordinary[1:], True))[None], 0.0, joined_ratios)
        similarities: NDArray[np.float64] = np.where(
            is_same, 1.0, np.maximum(single_ratios, np.where(is_long, joined_ratios, 0.0))
        )
        return np.where(similarities >= np.where(is_long, LIKE, 0.99), similarities, 0.0)

    def _best_mention(self, name: str, similarities: NDArray[np.float64]) -> Mention | None:
        """The stretch of the text that matches a name best; None if no word of it does."""
        positions = [self._positions[word] for word in self._names[name]]
        weights = self._weights[positions]
        rows = similarities[positions] * weights[:, None]
        width = len(positions) + _MAX_GAP
        head = self._heads.get(name, 0)
        best: tuple[float, int] = (0.0, 0)
        for start in np.flatnonzero(rows.max(axis=0) > 0).tolist():
            window = rows[:, start : start + width]
            score = _best_alignment(window) / max(float(weights.sum()), self._min_weight)
            if head:  # what stands behind a dash or a comma is rarely said
                head_score = _best_alignment(window[:head]) / max(float(weights[:head].sum()), self._min_weight)
                score = (1 - _HEAD_WEIGHT) * score + _HEAD_WEIGHT * head_score
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


def _best_alignment(weights: NDArray[np.float64]) -> float:
    """Greatest total weight when each word takes a position of its own, in order; weights: (words, positions)."""
    totals = np.zeros(weights.shape[1] + 1)
    for row in weights:
        taken = totals[:-1] + row
        totals[1:] = np.maximum.accumulate(np.maximum(totals[1:], taken))
    return float(totals[-1])


def _as_spelled(word: str) -> str:
    return word
