"""Closed-form classifiers over feature vectors, and the mixture of two classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_SHRINKAGES = tuple(float(x) for x in np.geomspace(0.003, 1.0, 12))
"""Candidate ridge penalties; a text's kernel with itself is 1."""
_SHARPNESSES = tuple(float(x) for x in np.geomspace(0.5, 16.0, 31))
LEAST_PROBABILITY = 1e-9
"""Added to a probability before its logarithm is taken."""
_WIDTH = 1.0
"""Of the Gaussian kernel, for rows of length 1."""
CHUNK = 256
"""Texts of one batch, after which progress is reported."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted intent with its calibrated probability.

    Attributes:
        intent: The likeliest label; "" if nothing was said.
        probability: Its calibrated probability, [0, 1]; 0 if nothing was said.
        ranked: All labels with their probabilities, likeliest first.
    """

    intent: str
    probability: float
    ranked: tuple[tuple[str, float], ...] = field(default=(), repr=False)

    @property
    def margin(self) -> float:
        """Difference in probability between the likeliest label and the second."""
        return self.probability - (self.ranked[1][1] if len(self.ranked) > 1 else 0.0)


@dataclass(frozen=True, slots=True)
class LabelHead:
    """A classifier of features: least squares on ±1 labels over a Gaussian kernel, fitted in closed form.

    The hyperparameters are tuned by leave-one-out, which costs no second fit (Rifkin & Lippert 2007, "Notes on
    regularized least squares"): the penalty by accuracy, and how sharp the softmax is by likelihood.

    Attributes:
        labels: Sorted.
        mean: Of each feature over the training texts; float32, shape (dim,).
        scale: Standard deviation of each; float32, shape (dim,).
        shares: How much each block counts; they sum to 1.
        rows: Training texts, scaled so that each has length 1; float32, shape (n, dim).
        weights: Of the training texts in the score of each label; float32, shape (n, labels).
        sharpness: Scores are multiplied by it before the softmax.
        shrinkage: The chosen ridge penalty.
        left_out: Leave-one-out accuracy on the training texts.
        left_out_scores: Leave-one-out scores of the training texts, shape (n, labels); None once it is loaded.
    """

    labels: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    shares: tuple[float, ...]
    rows: NDArray[np.float32]
    weights: NDArray[np.float32]
    sharpness: float
    shrinkage: float
    left_out: float
    left_out_scores: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        blocks: Sequence[NDArray[np.float32]],
        labels: Sequence[str],
        *,
        shares: Sequence[float] | None = None,
        shrinkage: float | None = None,
    ) -> LabelHead:
        """Fit a head.

        Args:
            blocks: Each float32, shape (n, its width).
            labels: One for each row.
            shares: How much each block counts; None lets all count alike.
            shrinkage: As in ``IntentOptions``.
        """
        names = tuple(sorted(set(labels)))
        places = np.array([names.index(label) for label in labels])
        features = np.concatenate(blocks, axis=1).astype(np.float32)
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        shares = tuple(shares or [1 / len(blocks)] * len(blocks))
        # In half precision, as they are saved: what is loaded then gives what was fitted.
        rows = _scaled_blocks((features - mean) / scale, blocks, shares).astype(np.float16).astype(np.float32)
        targets = np.where(places[:, None] == np.arange(len(names)), 1.0, -1.0)
        values, vectors = np.linalg.eigh(_kernel(rows, rows))
        projected = vectors.T @ targets
        trials = [
            (float((scores.argmax(axis=1) == places).mean()), penalty, scores, dual)
            for penalty in ((shrinkage,) if shrinkage is not None else _SHRINKAGES)
            for scores, dual in (_leave_one_out(values, vectors, projected, targets, penalty),)
        ]
        left_out, penalty, scores, dual = max(trials, key=lambda trial: trial[:2])  # of equals the strongest
        repeated = np.bincount(places)[places] > 1  # the only example of a label is always wrong when it is left out
        sharpness = _sharpness(scores[repeated], places[repeated])
        return cls(names, mean, scale, shares, rows, dual.astype(np.float32), sharpness, penalty, left_out, scores)

    def probabilities(self, blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Probability of each label: shape (n, labels)."""
        features = np.concatenate(blocks, axis=1).astype(np.float32)
        rows = _scaled_blocks((features - self.mean) / self.scale, blocks, self.shares)
        return softmax_rows(self.sharpness * (_kernel(rows, self.rows) @ self.weights.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """The head and the tuned encoders together: a logarithmic opinion pool (Genest & Zidek 1986).

    Both count alike. What is left out shows each of them weaker than it will be, by how much is not known, and shares
    that are fitted to it generalise worse than equal ones (the forecast combination puzzle, Stock & Watson 2004).

    Attributes:
        sharpness: Log-probabilities are multiplied by it before the softmax.
        left_out: Accuracy on training texts, each judged by what did not learn from it.
    """

    sharpness: float
    left_out: float

    @classmethod
    def fit(cls, head: NDArray[np.float64], tuned: NDArray[np.float64], places: NDArray[np.int_]) -> Mixture:
        """Fit the sharpness by maximum likelihood of the left-out labels.

        Args:
            head: Log-probabilities of each label for each text that was left out, shape (n, labels).
            tuned: The same of the encoders.
            places: Of the labels, shape (n,).
        """
        repeated = np.bincount(places)[places] > 1  # nobody can know the only example of a label
        mixed = (head + tuned) / 2
        sharpness = _sharpness(mixed[repeated], places[repeated])
        return cls(sharpness, float((mixed.argmax(axis=1) == places).mean()))

    def probabilities(self, head: NDArray[np.float64], tuned: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each label, shape (n, labels), from the log-probabilities of both."""
        return softmax_rows(self.sharpness * (head + tuned) / 2)


def prediction(labels: Sequence[str], probabilities: NDArray[np.float64]) -> Prediction:
    """Rank labels by their probabilities, shape (labels,)."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = tuple((labels[place], float(probabilities[place])) for place in order)
    return Prediction(*ranked[0], ranked)


def _scaled_blocks(
    features: NDArray[np.float32], blocks: Sequence[NDArray[np.float32]], shares: Sequence[float]
) -> NDArray[np.float32]:
    """Scale every block of a row to the square root of its share, so that the row has length 1."""
    parts = np.split(features, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)
    even = [
        part * (np.sqrt(share) / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6))
        for part, share in zip(parts, shares, strict=True)
    ]
    return np.asarray(np.concatenate(even, axis=1), np.float32)


def _kernel(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gaussian kernel exp(-width |x - y|²) between rows of length 1: shape (rows, columns)."""
    return np.asarray(np.exp(2 * _WIDTH * (np.clip(rows @ columns.T, -1.0, 1.0).astype(np.float64) - 1.0)))


def _leave_one_out(
    values: NDArray[np.float64],
    vectors: NDArray[np.float64],
    projected: NDArray[np.float64],
    targets: NDArray[np.float64],
    penalty: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leave-one-out scores of each text, and the dual weights of the fit with all texts; both (n, labels)."""
    inverse = 1 / (np.maximum(values, 0.0) + penalty)
    dual = vectors @ (inverse[:, None] * projected)
    return targets - dual / (np.square(vectors) @ inverse)[:, None], dual


def _sharpness(scores: NDArray[np.float64], places: NDArray[np.int_]) -> float:
    """The factor under which left-out labels are likeliest (temperature scaling, https://arxiv.org/abs/1706.04599).

    Aimed at (n + 1) / (n + 2) instead of 1 (Platt 1999): a few examples that are all told apart prove no certainty.
    """
    if not len(scores):  # one example of each label: there is nothing to fit it to
        return 4.0
    targets = np.full(scores.shape, 1 / (len(scores) + 2) / (scores.shape[1] - 1))
    targets[np.arange(len(places)), places] = (len(scores) + 1) / (len(scores) + 2)

    def likelihood(sharpness: float) -> float:
        return float((targets * np.log(softmax_rows(sharpness * scores) + 1e-12)).sum())

    return max(_SHARPNESSES, key=likelihood)


def softmax_rows(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax of each row; shape (rows, labels)."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
