"""How words sound, and how far two sounds lie apart: what a recogniser mixes up is alike in the mouth, not on paper."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

Costs: TypeAlias = NDArray[np.float64]

# Height (1 is high), backness (1 is back), rounding: where a vowel begins and where it ends. A, I, O, W and Y are the
# diphthongs of face, price, goat, mouth and choice, Q is the British goat.
_VOWELS: dict[str, tuple[float, float, float, float, float]] = {
    "i": (1.0, 0.0, 1.0, 0.0, 0.0),
    "ɪ": (0.8, 0.15, 0.8, 0.15, 0.0),
    "ᵻ": (0.75, 0.35, 0.75, 0.35, 0.0),
    "ɛ": (0.45, 0.1, 0.45, 0.1, 0.0),
    "æ": (0.15, 0.1, 0.15, 0.1, 0.0),
    "a": (0.0, 0.4, 0.0, 0.4, 0.0),
    "ɑ": (0.0, 0.9, 0.0, 0.9, 0.0),
    "ɒ": (0.05, 1.0, 0.05, 1.0, 1.0),
    "ɔ": (0.3, 0.95, 0.3, 0.95, 1.0),
    "ʌ": (0.3, 0.6, 0.3, 0.6, 0.0),
    "ə": (0.5, 0.5, 0.5, 0.5, 0.0),
    "ɐ": (0.4, 0.5, 0.4, 0.5, 0.0),
    "ᵊ": (0.5, 0.5, 0.5, 0.5, 0.0),
    "ɜ": (0.5, 0.5, 0.5, 0.5, 0.0),
    "ʊ": (0.8, 0.85, 0.8, 0.85, 1.0),
    "u": (1.0, 0.9, 1.0, 0.9, 1.0),
    "A": (0.6, 0.1, 0.9, 0.05, 0.0),
    "I": (0.0, 0.4, 0.8, 0.15, 0.0),
    "O": (0.55, 0.9, 0.85, 0.9, 1.0),
    "Q": (0.5, 0.5, 0.85, 0.9, 1.0),
    "W": (0.0, 0.4, 0.8, 0.85, 0.5),
    "Y": (0.3, 0.95, 0.8, 0.15, 0.5),
}
# Place (0 at the lips, 1 in the throat), manner (0 is a stop, 1 a glide), voice.
_CONSONANTS: dict[str, tuple[float, float, float]] = {
    "p": (0.0, 0.0, 0.0),
    "b": (0.0, 0.0, 1.0),
    "t": (0.4, 0.0, 0.0),
    "d": (0.4, 0.0, 1.0),
    "T": (0.4, 0.1, 0.5),  # the tapped t of "latte" in American English
    "k": (0.8, 0.0, 0.0),
    "ɡ": (0.8, 0.0, 1.0),
    "ʧ": (0.5, 0.15, 0.0),
    "ʤ": (0.5, 0.15, 1.0),
    "f": (0.1, 0.3, 0.0),
    "v": (0.1, 0.3, 1.0),
    "θ": (0.25, 0.3, 0.0),
    "ð": (0.25, 0.3, 1.0),
    "s": (0.4, 0.3, 0.0),
    "z": (0.4, 0.3, 1.0),
    "ʃ": (0.55, 0.3, 0.0),
    "ʒ": (0.55, 0.3, 1.0),
    "h": (1.0, 0.4, 0.0),
    "m": (0.0, 0.65, 1.0),
    "n": (0.4, 0.65, 1.0),
    "ŋ": (0.8, 0.65, 1.0),
    "l": (0.4, 0.85, 1.0),
    "ɹ": (0.5, 0.85, 1.0),
    "w": (0.2, 1.0, 1.0),
    "j": (0.65, 1.0, 1.0),
}
_SYMBOLS = (*_VOWELS, *_CONSONANTS)
_IDS = {symbol: number for number, symbol in enumerate(_SYMBOLS)}
# A glide or a liquid is half a vowel.
_HALF_VOWELS = {"w": "uʊOQWɔ", "j": "iɪᵻAIY", "ɹ": "əɜɐᵊɔ", "l": "ᵊəOʊ"}
_CHEAP = {"ə": 0.5, "ᵊ": 0.4, "ᵻ": 0.6, "ɐ": 0.5, "h": 0.6, "ɹ": 0.7, "t": 0.5, "d": 0.5, "T": 0.5}
_LOUD = dict(zip("bdɡvðzʒʤTθ", "ptkftsʃʧtt", strict=True))
"""What a consonant is taken for; th is taken for t."""

_WORD = re.compile(r"[^\W_]+(?:['’.,][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a text, and how it sounds.

    Attributes:
        start: Where it begins in the text, in characters.
        end: Where it ends.
        phonemes: Rows of `substitutions()`, without stress.
    """

    start: int
    end: int
    phonemes: tuple[int, ...]


def pronounce(text: str) -> tuple[SpokenWord, ...]:
    """How the words of an English text sound, one by one; "16-ounce" is two words, and what has no sound is none.

    Read by Hibari's dictionary, and by its network for words that are not in it, both inside its wheel. Digits are read
    out.

    Raises:
        ModelError: If Hibari's data is missing or broken.
    """
    spoken = (SpokenWord(*word.span(), _sounds(word.group())) for word in _WORD.finditer(text))
    return tuple(word for word in spoken if word.phonemes)


def phonemes(text: str) -> tuple[int, ...]:
    """The phonemes of a whole text, rows of `substitutions()`; empty if nothing in it can be said."""
    return tuple(phoneme for word in pronounce(text) for phoneme in word.phonemes)


def sound_string(text: str) -> str:
    """The phonemes of a text as a string, one character each, for libraries that compare strings."""
    return "".join(_SYMBOLS[sound] for sound in phonemes(text))


def skeleton(sounds: Sequence[int]) -> str:
    """What stays of phonemes when it is loud: the consonants, voiced and unvoiced ones alike, one sign each.

    Args:
        sounds: Rows of `substitutions()`.

    Example:
        >>> skeleton(phonemes("delight")) == skeleton(phonemes("the light"))
        True
    """
    signs = (_SYMBOLS[sound] for sound in sounds)
    return "".join(_LOUD.get(sign, sign) for sign in signs if sign in _CONSONANTS and sign != "h")


@functools.cache
def substitutions() -> Costs:
    """What it costs to hear one phoneme for another: 0 for the same, about 1 for the least alike, symmetric.

    Vowels by where the tongue begins and ends, consonants by place, manner and voice, as in weighted articulatory
    distances (Kondrak 2000, https://aclanthology.org/A00-2038).
    """
    return np.array([[_apart(a, b) for b in _SYMBOLS] for a in _SYMBOLS])


@functools.cache
def omissions() -> Costs:
    """What it costs to hear a phoneme that was not said, or not to hear one that was; shape (n,)."""
    return np.array([_CHEAP.get(symbol, 0.9 if symbol in _VOWELS else 1.0) for symbol in _SYMBOLS])


def alignments(
    said: Sequence[Sequence[int]],
    heard: Sequence[int],
    starts: Sequence[int] | NDArray[np.int_],
    *,
    missed: float = 1.0,
) -> Costs:
    """What it costs that something was said where a stretch of `heard` was, for every stretch.

    Args:
        said: Phonemes of p phrases.
        heard: Phonemes, shape (n,).
        starts: Where a stretch may begin, each in [0, n], shape (s,).
        missed: What a phoneme costs that was said and not heard, as a share of one that was heard and not said.

    Returns:
        Weighted edit distances of each phrase to ``heard[start:end]``, float64, shape (p, s, n + 1), infinite where
        `end` lies before `start`.
    """
    # By hand, because rapidfuzz's weights are one for each kind of edit, not one for each pair of phonemes, and because
    # all ends of a stretch come out of one table.
    swap, skip = substitutions(), omissions()
    row = np.asarray(heard, dtype=np.intp)
    # Hearing all of heard[start:end] for nothing costs skipped[end] - skipped[start].
    skipped = np.concatenate([[0.0], np.cumsum(skip[row])])
    first = np.asarray(starts, dtype=np.intp)
    nothing = np.where(np.arange(len(row) + 1) >= first[:, None], skipped - skipped[first][:, None], np.inf)
    # Longest first: all phrases walk together, and those that are through drop out at the end.
    order = sorted(range(len(said)), key=lambda i: -len(said[i]))
    cost = np.repeat(nothing[None], len(said), axis=0)
    for step in range(max(map(len, said), default=0)):
        now = np.array([said[i][step] for i in order if len(said[i]) > step])
        before = cost[: len(now)]
        after = before + skip[now][:, None, None]
        np.minimum(after[:, :, 1:], before[:, :, :-1] + swap[now][:, row][:, None, :], out=after[:, :, 1:])
        # Phonemes heard behind it: a running minimum instead of a loop over the ends.
        cost[: len(now)] = np.minimum.accumulate(after - skipped, axis=2) + skipped
    back = np.argsort(order)
    return cost[back]


def distance(said: str, heard: str) -> float:
    """How unlike two texts sound: the weighted edit distance of their phonemes, per phoneme of the longer one.

    Example:
        >>> distance("ate", "eight")
        0.0
        >>> distance("mocha", "mocker") < distance("mocha", "latte")
        True
    """
    a, b = phonemes(said), phonemes(heard)
    if not a or not b:
        return float(bool(a) != bool(b))
    return float(alignments([a], b, [0])[0, 0, -1]) / max(len(a), len(b))


@functools.lru_cache(maxsize=50_000)
def _sounds(word: str) -> tuple[int, ...]:
    with _LOCK:  # Hibari's reader is not made for several threads
        read = str(_reader()(word))
    return tuple(_IDS[sign] for sign in read if sign in _IDS)


_LOCK = threading.Lock()


@functools.cache
def _reader() -> Any:
    try:
        from hibari.g2p import G2P

        return G2P()
    except (ImportError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot read Hibari's dictionary ({error}); run: pip install --force-reinstall 'hibari-tts>=0.2,<0.3'",
            stage="load",
        ) from error


def _apart(a: str, b: str) -> float:
    if a == b:
        return 0.0
    if a in _VOWELS and b in _VOWELS:
        (h1, b1, h2, b2, r), (k1, c1, k2, c2, s) = _VOWELS[a], _VOWELS[b]
        path = (np.hypot(h1 - k1, b1 - c1) + np.hypot(h2 - k2, b2 - c2)) / 2
        return float(min(1.0, 0.1 + 0.7 * path + 0.1 * abs(r - s)))
    if a in _CONSONANTS and b in _CONSONANTS:
        (place, manner, voice), (place2, manner2, voice2) = _CONSONANTS[a], _CONSONANTS[b]
        return float(
            min(1.0, 0.1 + 0.6 * abs(place - place2) + 0.8 * abs(manner - manner2) + 0.2 * abs(voice - voice2))
        )
    consonant, vowel = (a, b) if a in _CONSONANTS else (b, a)
    return 0.6 if vowel in _HALF_VOWELS.get(consonant, "") else 1.3
