"""Which words of a partial are certain: those that hypotheses agree on, twice."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Languages that are written without blanks between words: there a sign is what can be committed.
UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
VOICED = 0.5
"""Probability of speech under which a frame may be the first of a silence."""


class Agreement:
    """LocalAgreement-2: what two successive decodes begin with is committed.

    Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System", https://arxiv.org/abs/2307.14743.
    """

    def __init__(self) -> None:
        self._committed: list[str] = []
        self._rest: list[str] = []  # what the last decode heard after them

    @property
    def committed(self) -> str:
        """The committed words as one text."""
        return "".join(self._committed).lstrip()

    @property
    def pieces(self) -> Sequence[str]:
        """The committed words, each with the blank before it."""
        return self._committed

    @property
    def tentative(self) -> str:
        """With the blank before it, if something is committed."""
        rest = "".join(self._rest)
        return rest if self._committed else rest.lstrip()

    def hear(self, text: str, language: str) -> bool:
        """Take the next decode; returns whether something has changed."""
        before = (self.committed, self.tentative)
        pieces = word_pieces(text, language)
        rest = pieces[matched(self._committed, pieces) :]
        agreed = 0
        while agreed < min(len(rest), len(self._rest)) and bare(rest[agreed]) == bare(self._rest[agreed]):
            agreed += 1
        # Decodes of a cut sentence end it with a full stop: the newer one has heard what follows.
        self._committed += rest[:agreed]
        self._rest = rest[agreed:]
        return (self.committed, self.tentative) != before


def word_pieces(text: str, language: str) -> list[str]:
    """Words, or signs in languages without blanks, each with the blanks before it."""
    if language in UNSPACED:
        return re.findall(r"\s*\S", text)
    return [f" {word}" for word in text.split()]


def bare(piece: str) -> str:
    """A word in lower case without its marks."""
    return "".join(sign for sign in piece.casefold() if sign.isalnum())


def matched(committed: Sequence[str], pieces: Sequence[str]) -> int:
    """How many pieces of a new decode stand for the committed ones: the beginning with the least edit distance."""
    known, new = [bare(piece) for piece in committed], [bare(piece) for piece in pieces]
    if new[: len(known)] == known:
        return len(known)
    from rapidfuzz.distance import Levenshtein

    return min(
        range(len(new) + 1), key=lambda count: (Levenshtein.distance(known, new[:count]), abs(count - len(known)))
    )
