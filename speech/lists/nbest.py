"""Lists of hypotheses: what counts as the same, and how lists of neighbouring windows become one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..transcript import Hypothesis, Transcript


@functools.cache
def normalizer(language: str = "en") -> Callable[[str], str]:
    """Whisper's text normaliser for a language: two texts are the same words if it maps them to the same string.

    English also unifies numbers, contractions and spelling (Radford et al. 2022, https://arxiv.org/abs/2212.04356,
    appendix C); other languages only case and punctuation, with vowel signs kept.
    """
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        normalize = EnglishTextNormalizer()
    else:
        from whisper_normalizer.basic import BasicTextNormalizer

        normalize = BasicTextNormalizer(preserve_marks=True)

    def words(text: str) -> str:
        # Whisper's own leaves a dot standing where a text ends in three.
        return " ".join(word for word in normalize(text).split() if any(sign.isalnum() for sign in word))

    return words


def distinct(
    hypotheses: Iterable[Hypothesis], *, language: str = "en", n_best: int | None = None
) -> tuple[Hypothesis, ...]:
    """Merge hypotheses that say the same words; best first, at most `n_best`, never padded.

    The merged hypothesis keeps the best one's writing and gets the probability of all of them (log-sum-exp of their
    `log_prob`): the spellings of one sentence are disjoint events, and what matters later is how probable the words
    are, not how many ways of writing them the beam happened to hold.

    Raises:
        ValueError: If `n_best` is less than 1.
    """
    if n_best is not None and n_best < 1:
        raise ValueError(f"n_best must be at least 1, not {n_best}")
    normalize = normalizer(language)
    merged: dict[str, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        merged.setdefault(normalize(hypothesis.text), []).append(hypothesis)
    summed = [
        replace(max(group, key=lambda h: h.log_prob), log_prob=_log_sum_exp([h.log_prob for h in group]))
        for group in merged.values()
    ]
    return tuple(sorted(summed, key=lambda h: -h.log_prob)[:n_best])


def varied(
    hypotheses: Sequence[Hypothesis], n_best: int, *, language: str = "en", temperature: float = 1.0
) -> tuple[Hypothesis, ...]:
    """The best hypothesis and those that, together, lie closest to what else may have been said.

    The likeliest hypotheses often differ in one and the same word. Chosen is, one after the other, the hypothesis that
    most lowers the expected number of words by which the nearest chosen one is wrong, the expectation taken over all
    of them (a facility-location choice; the loss is that of minimum-Bayes-risk decoding, Kumar & Byrne 2004,
    https://aclanthology.org/N04-1022).

    Args:
        hypotheses: Distinct ones, best first.
        n_best: How many to choose.
        language: Whose normaliser makes words comparable.
        temperature: Of the expectation; above 1 the unlikely ones count for more.

    Returns:
        Best first.
    """
    if len(hypotheses) <= n_best:
        return tuple(hypotheses)
    normalize = normalizer(language)
    words = [normalize(hypothesis.text).split() for hypothesis in hypotheses]
    scores = np.array([hypothesis.log_prob for hypothesis in hypotheses]) / temperature
    weights = np.exp(scores - scores.max())
    apart = word_distances(words)
    chosen, nearest = [0], apart[:, 0]
    while len(chosen) < n_best:
        gains = weights @ (nearest[:, None] - np.minimum(nearest[:, None], apart))
        gains[chosen] = -1.0
        chosen.append(int(np.argmax(gains)))
        nearest = np.minimum(nearest, apart[:, chosen[-1]])
    return tuple(hypotheses[i] for i in sorted(chosen))


def word_distances(words: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Word errors between any two of some sentences (Levenshtein); float64, shape (n, n)."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    return cdist(words, words, scorer=Levenshtein.distance, dtype=np.float64)


def joined(windows: Sequence[Transcript], *, duration: float, n_best: int) -> Transcript:
    """One transcript of a recording from those of its windows, in order.

    The best hypothesis is the windows' best ones in a row. The others differ from it in one window only, the one with
    the highest entropy: all combinations would fill the list with sums of unlikely details.

    Args:
        windows: Refused ones contribute no words.
        duration: Seconds of the whole recording.
        n_best: Length of the list at most.
    """
    spoken = [window for window in windows if window.is_speech]
    if not spoken:
        if not windows:
            return Transcript.nothing(f"nobody spoke in {duration:.1f} s of sound", duration)
        least = min(windows, key=lambda window: window.no_speech_prob)
        return Transcript.nothing(least.reason, duration, least.no_speech_prob)
    doubtful = max(range(len(spoken)), key=lambda i: spoken[i].entropy)
    hypotheses = [
        _row([w.hypotheses[0] if i != doubtful else choice for i, w in enumerate(spoken)])
        for choice in spoken[doubtful].hypotheses[:n_best]
    ]
    no_speech_prob = min(window.no_speech_prob for window in spoken)
    return Transcript(
        tuple(hypotheses), spoken[0].language, no_speech_prob, duration, calibration=spoken[0].calibration
    )


def _row(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    return Hypothesis(
        " ".join(h.text for h in hypotheses),
        math.fsum(h.log_prob for h in hypotheses),
        sum(h.n_tokens for h in hypotheses),
        tuple(word for h in hypotheses for word in h.words),
    )


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
