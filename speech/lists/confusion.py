"""The list of hypotheses as a row of slots: which words compete for each place, and how probable each of them is.

network = ConfusionNetwork.of(transcript)
network.best()      # "so tina went into the washroom", the likeliest word of every slot
network             # in a notebook: drawn
"""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ..transcript import Hypothesis, Transcript, Word

_GAP = 0.7
"""Cost of a word that only one side has. Two words that differ cost 0.4 to 1.0, by how much: less than leaving both
out, so that "see" and "the sea" meet in one slot."""


@dataclass(frozen=True, slots=True)
class SlotWord:
    """One word that may stand in a slot.

    Attributes:
        text: As the best hypothesis that has it writes it; "" if nothing was said here.
        probability: [0, 1], summed over the hypotheses that have it.
    """

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Slot:
    """What competes for one place of the sentence.

    Attributes:
        choices: Likeliest first; the probabilities sum to 1.
        start: Seconds from the beginning of the audio; None if the recogniser gave no times.
        end: Seconds; None if there are no times.
    """

    choices: tuple[SlotWord, ...]
    start: float | None = None
    end: float | None = None

    @property
    def entropy(self) -> float:
        """Nats: 0 where all hypotheses agree."""
        return -math.fsum(c.probability * math.log(c.probability) for c in self.choices if c.probability > 0) or 0.0

    def probability(self, word: str) -> float:
        """Posterior of a word in this slot, up to case and punctuation; 0 if no hypothesis has it here."""
        return math.fsum(c.probability for c in self.choices if key(c.text) == key(word))


@dataclass(frozen=True, slots=True)
class ConfusionNetwork:
    """Word slots with posteriors (Mangu, Brill & Stolcke 2000, https://arxiv.org/abs/cs/0010012).

    Built as ROVER does (Fiscus 1997, https://doi.org/10.1109/ASRU.1997.659110): the best hypothesis is the first row,
    and each further one is aligned with the slots that are there so far.

    Attributes:
        slots: In the order of speech.
        rows: One per hypothesis, best first: its word in every slot, "" where it has none.
    """

    slots: tuple[Slot, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, transcript: Transcript, *, temperature: float = 1.0) -> ConfusionNetwork:
        """Align the hypotheses of a transcript.

        Args:
            transcript: An empty one gives a network without slots.
            temperature: Of the posteriors; see ``Transcript.posteriors``.

        Raises:
            ValueError: If the temperature is not positive.
        """
        posteriors = transcript.posteriors(temperature)
        timed = [_timed(hypothesis) for hypothesis in transcript.hypotheses]
        columns = _columns([[word.text for word in words] for words in timed])
        slots = tuple(_slot(column, timed, posteriors) for column in columns)
        rows = tuple(
            tuple("" if (at := column[row]) is None else timed[row][at].text for column in columns)
            for row in range(len(timed))
        )
        return cls(slots, rows)

    def best(self) -> str:
        """The likeliest word of every slot: what posterior-weighted ROVER chooses."""
        return " ".join(slot.choices[0].text for slot in self.slots if slot.choices[0].text)

    def words(self, row: int = 0) -> tuple[Word, ...]:
        """The words of a hypothesis, each with its posterior in its slot, and its times (NaN if there are none).

        Raises:
            ValueError: If there is no such row.
        """
        if not 0 <= row < len(self.rows):
            raise ValueError(f"there is no hypothesis {row}; the network was made of {len(self.rows)}")
        return tuple(
            Word(
                text,
                math.nan if slot.start is None else slot.start,
                math.nan if slot.end is None else slot.end,
                slot.probability(text),
            )
            for text, slot in zip(self.rows[row], self.slots, strict=True)
            if text
        )

    def drawn(self) -> str:
        """As text, one line a slot: ``sunglasses 0.61 · song 0.30 · ∅ 0.09``."""
        return "\n".join(
            " · ".join(f"{choice.text or '∅'} {choice.probability:.2f}" for choice in slot.choices)
            for slot in self.slots
        )

    def _repr_html_(self) -> str:
        cells = "".join(
            '<td style="vertical-align:top;text-align:center;padding:0 .5em">'
            + "<br>".join(
                f'<span style="opacity:{0.35 + 0.65 * choice.probability:.2f}">{html.escape(choice.text) or "∅"}</span>'
                f' <small style="opacity:.6">{choice.probability:.2f}</small>'
                for choice in slot.choices
            )
            + "</td>"
            for slot in self.slots
        )
        return f'<table class="confusion-network"><tr>{cells}</tr></table>'


def key(word: str) -> str:
    """What makes two words of a slot the same one: letters and digits, without case."""
    return "".join(sign for sign in word.casefold() if sign.isalnum())


def _timed(hypothesis: Hypothesis) -> list[Word]:
    """The words of a hypothesis, without times unless the recogniser timed exactly these."""
    texts = [text for text in hypothesis.text.split() if key(text)]
    if len(texts) == len(hypothesis.words):
        return [
            Word(text, word.start, word.end, word.probability)
            for text, word in zip(texts, hypothesis.words, strict=True)
        ]
    return [Word(text, math.nan, math.nan, 0.0) for text in texts]


def _columns(sentences: Sequence[Sequence[str]]) -> list[list[int | None]]:
    """Align sentences into columns: column[row] is the index of the word that sentence has there, or None."""
    columns: list[list[int | None]] = []
    seen: list[set[str]] = []
    for row, words in enumerate(sentences):
        keys = [key(word) for word in words]
        aligned = _alignment(seen, keys)
        columns = [[None] * row if at is None else columns[at] for at, _ in aligned]
        seen = [{""} if at is None and row else set() if at is None else seen[at] for at, _ in aligned]
        for column, words_seen, (_, index) in zip(columns, seen, aligned, strict=True):
            column.append(index)
            words_seen.add("" if index is None else keys[index])
    return columns


def _alignment(slots: Sequence[set[str]], words: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Cheapest pairs of slot and word (dynamic programming); None where one side has nothing."""
    # By hand, because a slot holds several words, each of which costs what its letters say: rapidfuzz has no such
    # distance.
    skip = [0.0 if "" in slot else _GAP for slot in slots]
    n, m = len(slots), len(words)
    cost = [[0.0] * (m + 1) for _ in range(n + 1)]
    step = [[(0, 1)] * (m + 1) for _ in range(n + 1)]
    for i in range(n + 1):
        for j in range(m + 1):
            options = []
            if i and j:
                meet = min((_distance(word, words[j - 1]) for word in slots[i - 1] if word), default=_GAP)
                options.append((cost[i - 1][j - 1] + meet, (1, 1)))
            if i:
                options.append((cost[i - 1][j] + skip[i - 1], (1, 0)))
            if j:
                options.append((cost[i][j - 1] + _GAP, (0, 1)))
            if options:
                cost[i][j], step[i][j] = min(options, key=lambda option: option[0])
    pairs: list[tuple[int | None, int | None]] = []
    i, j = n, m
    while i or j:
        down, right = step[i][j]
        pairs.append((i - 1 if down else None, j - 1 if right else None))
        i, j = i - down, j - right
    return pairs[::-1]


@functools.lru_cache(maxsize=1 << 16)
def _distance(a: str, b: str) -> float:
    """0 for the same word, else 0.4 to 1.0 by how many letters differ."""
    return 0.0 if a == b else 1.0 - 0.6 * SequenceMatcher(None, a, b, autojunk=False).ratio()


def _slot(column: Sequence[int | None], timed: Sequence[Sequence[Word]], posteriors: Sequence[float]) -> Slot:
    texts: dict[str, str] = {}
    mass: dict[str, float] = {}
    spoken: list[Word] = []
    for at, words, posterior in zip(column, timed, posteriors, strict=True):
        word = None if at is None else words[at]
        name = "" if word is None else key(word.text)
        texts.setdefault(name, "" if word is None else word.text)
        mass[name] = mass.get(name, 0.0) + posterior
        if word is not None and not math.isnan(word.start):
            spoken.append(word)
    choices = tuple(SlotWord(texts[name], min(1.0, mass[name])) for name in sorted(mass, key=lambda name: -mass[name]))
    first = spoken[0] if spoken else None
    return Slot(choices, first.start if first else None, first.end if first else None)
