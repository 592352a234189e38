"""LocalAgreement: the words on which successive decodes of a growing utterance agree are committed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..lists.nbest import word_key

# Languages that are written without blanks between words: there single characters are committed.
UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})


class Agreement:
    """LocalAgreement-2: the longest common prefix of two successive decodes is committed.

    Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System", https://arxiv.org/abs/2307.14743.
    """

    def __init__(self) -> None:
        self._committed: list[str] = []
        self._tentative: list[str] = []  # words of the last decode behind the committed ones

    @property
    def committed(self) -> str:
        """The committed words as one text."""
        return "".join(self._committed).lstrip()

    @property
    def committed_words(self) -> Sequence[str]:
        """The committed words, each with the blank before it."""
        return self._committed

    @property
    def tentative(self) -> str:
        """What the last decode has after the committed words, with the blank before it if there are any."""
        text = "".join(self._tentative)
        return text if self._committed else text.lstrip()

    def update(self, text: str, language: str) -> bool:
        """Take the text of the next decode; returns whether committed or tentative words have changed."""
        previous = (self.committed, self.tentative)
        words = split_words(text, language)
        tentative = words[aligned_prefix_length(self._committed, words) :]
        agreed = 0
        while agreed < min(len(tentative), len(self._tentative)) and (
            word_key(tentative[agreed]) == word_key(self._tentative[agreed])
        ):
            agreed += 1
        # Decodes of a cut sentence end it with a full stop: the newer one has heard what follows.
        self._committed += tentative[:agreed]
        self._tentative = tentative[agreed:]
        return (self.committed, self.tentative) != previous


def split_words(text: str, language: str) -> list[str]:
    """Words, or characters in languages without blanks, each with the blanks before it."""
    if language in UNSPACED:
        return re.findall(r"\s*\S", text)
    return [f" {word}" for word in text.split()]


def aligned_prefix_length(committed: Sequence[str], words: Sequence[str]) -> int:
    """How many words of a new decode align with the committed ones: the prefix at the least edit distance."""
    reference, hypothesis = [word_key(word) for word in committed], [word_key(word) for word in words]
    if hypothesis[: len(reference)] == reference:
        return len(reference)
    from rapidfuzz.distance import Levenshtein

    return min(
        range(len(hypothesis) + 1),
        key=lambda length: (Levenshtein.distance(reference, hypothesis[:length]), abs(length - len(reference))),
    )
