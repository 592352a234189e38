"""Phonetic matching: a misheard name is no word of the index, but sounds like one.

Sounds are read off the spelling by rules, as Metaphone does (Philips 1990), but vowels stay: what a recogniser writes
for a name it does not know mostly has the right ones. On 874 misheard SQuAD questions this found as much as phonemes
from a pronouncing model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

LIKE = 0.7
"""Least similarity of two words that may be one misheard: twice the sounds in common, in order, over all sounds."""
_MIN_SOUNDS = 3  # sounds; a shorter word sounds like too many others
_VOWELS = "aeiou"
_RULES: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), sound)
    for pattern, sound in (
        (r"[\W_]", ""),
        (r"tch|ch", "C"),
        (r"sch|sh|(?<=.)[tc]i(?=[oa])", "S"),
        (r"ph", "f"),
        (r"^[kgp]n", "n"),
        (r"^wr", "r"),
        (r"^ps|^x", "s"),
        (r"ght", "t"),
        (r"gh", ""),
        (r"dg|g(?=[eiy])", "j"),
        (r"c(?=[eiy])|z", "s"),
        (r"ck|c|q", "k"),
        (r"x", "ks"),
        (r"th", "T"),
        (rf"w(?=[^{_VOWELS}y]|$)", ""),
        (rf"(?<=[{_VOWELS}])h", ""),
        (r"(?<=..)e$", ""),
        (r"(.)\1+", r"\1"),
        (r"y", "i"),
        (rf"([{_VOWELS}])[{_VOWELS}]+", r"\1"),
    )
]


def spelled_sound(word: str) -> str:
    """How a word sounds by its letters, a character for each sound; other scripts than the Latin one stay as they are.

    Example:
        >>> spelled_sound("Phoenix"), spelled_sound("Fenix")
        ('foniks', 'feniks')
    """
    decomposed = unicodedata.normalize("NFKD", word.lower())
    sound = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    for pattern, replacement in _RULES:
        sound = pattern.sub(replacement, sound)
    return sound


class SoundAlikes:
    """Finds the known word that another word sounds most like."""

    def __init__(self, words: Iterable[str], previous: SoundAlikes | None = None) -> None:
        """Index words by their sounds.

        Args:
            words: The words; those of digits are left out.
            previous: An earlier vocabulary; the sounds of words that are in both are copied from it.
        """
        known_sounds = {} if previous is None else dict(zip(previous._words, previous._sounds, strict=True))
        pairs = [
            (word, known_sounds.get(word) or spelled_sound(word)) for word in words if not any(map(str.isdigit, word))
        ]
        pairs = [(word, sound) for word, sound in pairs if len(sound) >= _MIN_SOUNDS]
        self._words: list[str] = [word for word, _ in pairs]
        self._sounds: list[str] = [sound for _, sound in pairs]

    def nearest(self, word: str, following: str = "") -> str | None:
        """The word that this one sounds most like; None if it sounds like none.

        Args:
            word: Any word.
            following: The one behind it: a name may have been heard as two words.
        """
        from rapidfuzz import fuzz, process

        best: tuple[float, str] | None = None
        for spelling in dict.fromkeys((word, word + following)):
            sound = spelled_sound(spelling)
            if len(sound) < _MIN_SOUNDS or any(map(str.isdigit, spelling)):
                continue
            match = process.extractOne(sound, self._sounds, scorer=fuzz.ratio, score_cutoff=100 * LIKE)
            if match is not None and (best is None or match[1] > best[0]):
                best = (match[1], self._words[match[2]])
        return None if best is None else best[1]
