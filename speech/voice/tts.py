"""Turns text into sound, sentence by sentence."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from ..errors import SynthesisError
from ..sound.audio import Audio
from .sentences import sentences


class Synthesizer(Protocol):
    """Speaks text."""

    def speak(self, text: str) -> Iterator[Audio]:
        """Sound of `text`, one piece per sentence, each as soon as it is made; nothing if nothing can be spoken."""
        ...


class HibariSynthesizer:
    """Hibari (https://github.com/MMWilliams/hibari): English, 24 kHz, on one CPU core.

    Safe to use from several threads, one of which synthesises at a time.

    Args:
        voice: "heart" (American) is inside the wheel; Hibari downloads its other voices when one is first named.
        speed: 1.0 is the voice's own pace, 0.5 slow, 2.0 fast.

    Raises:
        ValueError: If the voice is unknown or the speed out of range.
        SynthesisError: If the voice cannot be loaded.
    """

    def __init__(self, voice: str = "heart", speed: float = 1.0) -> None:
        if not 0.5 <= speed <= 2.0:
            raise ValueError(f"speed must lie between 0.5 and 2.0, not {speed}; 1.0 is the voice's own pace")
        from hibari import Hibari
        from hibari.voices import VOICES

        if voice not in VOICES:
            raise ValueError(f"there is no voice {voice!r}; choose one of {', '.join(sorted(VOICES))}")
        self.voice = voice
        self.speed = speed
        self._lock = threading.Lock()
        try:
            self._hibari: Any = Hibari(voice=voice)
            self._hibari.phonemize("Ready.")  # loads the dictionaries now instead of with the first answer
        except Exception as error:  # RuntimeError for a failed download, ONNX Runtime's own for a broken file
            raise SynthesisError(
                f"cannot load the voice {voice!r}: {error}; the voice 'heart' needs no download",
                stage="load",
                retryable=True,
            ) from error

    def speak(self, text: str) -> Iterator[Audio]:
        """Sound of `text` at 24 kHz, one piece per sentence, the same each time.

        Marks that are written but not said (Markdown, links, sources in brackets) are left out.
        """
        for sentence in sentences([speakable(text)]):
            # The lock is free at each yield: whoever stops listening half-way must not silence everybody else.
            with self._lock:
                read = self._hibari.phonemize(sentence)
            for phonemes in read:
                # Dots and dashes alone have phonemes too, and would be a breath.
                if any(sign.isalpha() for sign in phonemes):
                    with self._lock:
                        samples = self._hibari.from_phonemes(phonemes, self.speed, seed=0)
                    yield Audio(samples, self._hibari.sample_rate)


_FENCE = re.compile(r"^\s*(```|~~~).*?(?:^\s*\1\s*$|\Z)", re.MULTILINE | re.DOTALL)
_UNSPOKEN = (
    (_FENCE, " "),
    (re.compile(r"<!--.*?-->", re.DOTALL), " "),
    (re.compile(r"!\[([^\]]*)\]\([^)]*\)"), r"\1"),  # images
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # links
    (re.compile(r"<(?:https?://|mailto:)[^>]*>"), ""),
    (re.compile(r"\(\s*(?:https?://|www\.)[^\s)]+\s*\)"), ""),
    (re.compile(r"(?:https?://|www\.)[^\s<>)\]]*[^\s<>)\].,;:!?]"), ""),
    # Sources: [menu.md], [menu.md > Sizes], [menu.md, hours.md], [1], [2, 3], [^4]
    (re.compile(r"\s*\[(?:\^?\d+(?:\s*[,;]\s*\d+)*|[^\]\n]*?\w\.[A-Za-z]\w{1,4}\b[^\]\n]*)\]"), ""),
    (re.compile(r"</?[A-Za-z][^<>\n]*>"), " "),
    # Rules, and the line below a table's head
    (re.compile(r"^[^\S\n]*\|?(?:[^\S\n]*:?-{3,}:?[^\S\n]*\|?)+[^\S\n]*$", re.MULTILINE), ""),
    (re.compile(r"^\s*(?:#{1,6}\s+|>\s?|[-*+•]\s+(?:\[[ xX]\]\s+)?)+", re.MULTILINE), ""),
    (re.compile(r"^[^\S\n]*\||\|[^\S\n]*$", re.MULTILINE), ""),
    (re.compile(r"[^\S\n]*\|[^\S\n]*"), ", "),
    (re.compile(r"(?<!\w)(\*\*\*|\*\*|\*|~~|`+)(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"(?<!\w)(__?)(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"[*`~#]{2,}"), ""),
    (re.compile(r"[^\S\n]+([.,;:!?])(?=\s|$)"), r"\1"),  # blanks left before a mark
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r"\s*\n\s*"), "\n"),
)


def speakable(text: str) -> str:
    """The part of a written answer that is said aloud: no Markdown marks, code blocks, addresses or sources.

    Example:
        >>> speakable("A **flat white** is 3.50 [menu.md].")
        'A flat white is 3.50.'
    """
    for pattern, said in _UNSPOKEN:
        text = pattern.sub(said, text)
    return text.strip()
