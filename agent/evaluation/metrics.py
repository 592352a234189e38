"""Word error rates, calibration error, and what refusing the unsure saves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vivavoce.speech import normalizer

from ..errors import ConfigError


def word_error_rate(references: Sequence[str], texts: Sequence[str], language: str = "en") -> float:
    """Corpus word error rate: all errors by all words of the references, both sides through Whisper's normaliser.

    Raises:
        ConfigError: If no reference has a word.
    """
    tally = Errors()
    for reference, text in zip(references, texts, strict=True):
        tally.add(*errors(reference, text, language))
    return tally.rate


def errors(reference: str, text: str, language: str = "en") -> tuple[int, int]:
    """Wrong words (substituted, left out, put in) and words of the reference, after normalising both."""
    try:
        from jiwer import process_words
    except ImportError as error:
        raise ImportError("Counting word errors needs the package jiwer: pip install 'vivavoce[train]'") from error

    normalize = normalizer(language)
    expected, actual = normalize(reference), normalize(text)
    if not expected:
        return len(actual.split()), 0
    counts = process_words(expected, actual)
    return counts.substitutions + counts.deletions + counts.insertions, len(expected.split())


@dataclass(slots=True)
class Errors:
    """A running sum of errors and words."""

    errors: int = field(default=0)
    words: int = field(default=0)

    def add(self, errors: int, words: int) -> None:
        """Count one item."""
        self.errors += errors
        self.words += words

    @property
    def rate(self) -> float:
        """Errors per word.

        Raises:
            ConfigError: If there are no words.
        """
        if not self.words:
            raise ConfigError(
                "no reference has a word, so there is no error rate; is the right field read?", stage="eval"
            )
        return self.errors / self.words


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int | None = None) -> float:
    """Expected calibration error: the mean over items of |confidence − share that is right| of the item's bin.

    Bins of equal mass (items sorted by confidence, shape (n,)). Their number is the largest for which the share of
    right ones rises from bin to bin (Roelofs et al. 2022, https://arxiv.org/abs/2012.08668): with a fixed number, few
    items give a large error even to a perfect forecaster.

    Args:
        confidence: Forecasts, [0, 1].
        right: What came true.
        bins: A fixed number of bins instead.
    """
    order = np.argsort(np.asarray(confidence, dtype=np.float64), kind="stable")
    forecasts, outcomes = np.asarray(confidence, dtype=np.float64)[order], np.asarray(right, dtype=np.float64)[order]
    if not len(forecasts):
        return 0.0

    def split(count: int) -> list[tuple[float, float, int]]:
        parts = zip(np.array_split(forecasts, count), np.array_split(outcomes, count), strict=True)
        return [(float(p.mean()), float(o.mean()), len(p)) for p, o in parts if len(p)]

    if bins is None:
        bins = 1
        while bins < len(forecasts):
            shares = [share for _, share, _ in split(bins + 1)]
            if any(later < earlier for earlier, later in itertools.pairwise(shares)):
                break
            bins += 1
    return sum(abs(forecast - share) * size for forecast, share, size in split(bins)) / len(forecasts)


def error_after_refusing(confidence: Sequence[float], right: Sequence[bool], share: float) -> float:
    """Share of wrong items among those that are left when the least certain `share` of all is refused."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    accepted = np.asarray(right, dtype=bool)[order][: max(1, len(order) - round(share * len(order)))]
    return float(1.0 - accepted.mean())
