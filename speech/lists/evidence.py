"""Features of each reading in an N-best list relative to the first, and the training of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..transcript import Transcript
from .nbest import normalizer, word_distances
from .phonetics import alignments, phonemes

EVIDENCE = {
    "heard": "nats by which the recogniser finds it likelier",
    "language": "nats by which the language model does",
    "sound": "phonemes by which it sounds different, negative",
    "sound_per_word": "the same per changed word",
    "words": "changed words, negative",
    "risk": "expected word errors that it saves, by the posteriors of the list",
    "risk_even": "the same, with all readings alike",
    "longer": "words more",
    "shorter": "words fewer",
    "tokens": "tokens fewer in the language model's vocabulary",
    "other": "-1: that it is another reading at all",
    "language_spread": "`language` times the spread of the list",
    "language_share": "ten times `language` per token of the first reading",
    "other_spread": "`other` times the spread of the list",
    "other_oddness": "`other` times the nats per token of the first reading, negative",
    "other_length": "`other` times the logarithm of the number of words",
}
"""What is counted. All is 0 for the first reading. The spread of a list is the mean number of word errors between two
of its readings, per word: how far apart hypotheses lie tells how noisy the speech was (the language-space noise
embedding of RobustGER, Hu et al. 2024, https://arxiv.org/abs/2401.10446, reads the same differences)."""

BY_HAND: Mapping[str, float] = {"heard": 1.0, "language": 0.5, "sound": 1.5, "other": 1.0}
"""Weights for when none were fitted: three kinds of evidence, and a nat by which another reading must be ahead."""


def evidence(
    transcript: Transcript,
    plain: Sequence[str],
    language: Sequence[float],
    tokens: Sequence[int],
) -> NDArray[np.float64]:
    """What speaks for the first readings of a list, against the very first.

    Args:
        transcript: At least two hypotheses.
        plain: The readings as sentences, as many as are weighed.
        language: Log-probability of each as language, in nats.
        tokens: How many tokens that is a sum of.

    Returns:
        float64, shape (readings, len(EVIDENCE)).
    """
    normalize = normalizer("en")
    heard = np.array([h.log_prob for h in transcript.hypotheses[: len(plain)]])
    words = [normalize(h.text).split() for h in transcript.hypotheses[: len(plain)]]
    apart = word_distances(words)
    weights = np.exp(heard - heard.max())
    risk, even = apart @ (weights / weights.sum()), apart.mean(axis=1)
    count = max(1, len(words[0]))
    spread = float(apart[np.triu_indices(len(words), 1)].mean()) / count
    gain = np.array(language) - language[0]
    unlikes = np.array([unlike(plain[0], text) for text in plain])
    lengths = np.array([len(reading) for reading in words], dtype=np.float64)
    other = -(np.arange(len(words)) > 0).astype(np.float64)
    columns = {
        "heard": heard - heard[0],
        "language": gain,
        "sound": -unlikes,
        "sound_per_word": -unlikes / np.maximum(1.0, apart[0]),
        "words": -apart[0],
        "risk": risk[0] - risk,
        "risk_even": even[0] - even,
        "longer": np.maximum(0.0, lengths - lengths[0]),
        "shorter": np.maximum(0.0, lengths[0] - lengths),
        "tokens": tokens[0] - np.array(tokens, dtype=np.float64),
        "other": other,
        "language_spread": gain * spread,
        "language_share": 10 * gain / tokens[0],
        "other_spread": other * spread,
        "other_oddness": other * -language[0] / tokens[0],
        "other_length": other * np.log(count),
    }
    return np.stack([columns[name] for name in EVIDENCE], axis=1)


def fit_weights(
    lists: Sequence[NDArray[np.float64]],
    errors: Sequence[Sequence[int]],
    allowed: Sequence[Sequence[bool]],
    *,
    shrinkage: float = 1e-3,
) -> dict[str, float]:
    """Weights under which the fewest word errors are expected.

    Minimum word error training (Prabhavalkar et al. 2018, https://arxiv.org/abs/1712.01818): a softmax over the weighed
    evidence of a list draws a reading; the expected number of its errors is minimised.

    Args:
        lists: Evidence of each list, shape (readings, len(EVIDENCE)).
        errors: Word errors of each reading.
        allowed: Whether it may be chosen at all; the first one may.
        shrinkage: How much weights are held near `BY_HAND`, where all evidence has standard deviation 1.

    Raises:
        ValueError: If no list has readings that differ in their errors.
        ImportError: If the `train` extra is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError("Fitting the weights of evidence needs SciPy: pip install 'vivavoce[train]'") from error

    informative = [row for row, wrong in enumerate(errors) if len(set(wrong)) > 1]
    if not informative:
        raise ValueError("no list has readings with more and with fewer errors: there is nothing to learn from")
    longest = max(len(errors[row]) for row in informative)
    features = np.zeros((len(informative), longest, len(EVIDENCE)))
    excess_errors = np.zeros((len(informative), longest))
    mask = np.full((len(informative), longest), -1e9)
    for index, row in enumerate(informative):
        size = len(errors[row])
        features[index, :size] = lists[row]
        excess_errors[index, :size] = np.array(errors[row]) - errors[row][0]
        mask[index, :size] = np.where(allowed[row], 0.0, -1e9)
    scale = features[mask == 0.0].std(axis=0) + 1e-6
    features = features / scale
    start = np.array([BY_HAND.get(name, 0.0) for name in EVIDENCE]) * scale

    def expected(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = features @ weights + mask
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        mean = (chances * excess_errors).sum(axis=1, keepdims=True)
        slope = np.einsum("lr,lre->e", chances * (excess_errors - mean), features) / len(informative)
        off = weights - start
        return float(mean.mean() + shrinkage * (off**2).mean()), slope + 2 * shrinkage * off / len(off)

    fitted = minimize(expected, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x / scale
    return {name: round(float(weight), 4) for name, weight in zip(EVIDENCE, fitted, strict=True)}


def unlike(said: str, heard: str) -> float:
    """How many phonemes apart two sentences are, weighted by how unlike they are; see ``phonetics.alignments``."""
    a, b = phonemes(said), phonemes(heard)
    if not a or not b:
        return float(len(a) + len(b))
    return float(alignments([a], b, [0])[0, 0, -1])
