"""Many rankings become one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .options import SearchOptions

Item = TypeVar("Item", bound=Hashable)


def weighted_sum(scores: Sequence[Mapping[Item, float]], weights: Sequence[float]) -> dict[Item, float]:
    """Fuse scores that share one scale: their weighted mean, where an item that is missing from one counts 0 there.

    Where scores are comparable this keeps what ranks throw away, namely by how much one item is better than the next
    (Bruch, Gai & Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval").

    Args:
        scores: Score of each item, for each way of looking.
        weights: How much each way counts, not negative and not all 0.

    Returns:
        ``Σ_i w_i · score_i(d) / Σ_i w_i`` of every item, best first; equal scores keep the order of first appearance.

    Raises:
        ValueError: If there are not as many weights as mappings, or they are negative or all 0.
    """
    fused: dict[Item, float] = {}
    for found, share in zip(scores, _shares(weights, len(scores)), strict=True):
        for item, score in found.items():
            fused[item] = fused.get(item, 0.0) + share * score
    return _best_first(fused)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Item]], weights: Sequence[float] | None = None, *, constant: float = 60.0
) -> dict[Item, float]:
    """Fuse rankings by place alone, so that their scores need not be comparable.

    ``score(d) = Σ_i w_i · (constant + 1) / (constant + rank_i(d))`` over the rankings that hold ``d``, divided by
    ``Σ_i w_i``: reciprocal rank fusion (Cormack, Clarke & Büttcher 2009) with weights, scaled so that an item that is
    first everywhere has 1.

    Args:
        rankings: Lists of items, best first, without repeats.
        weights: How much each ranking counts, not negative and not all 0; default: equally.
        constant: How little the first places stand out; 60 in the paper.

    Returns:
        Score in (0, 1] of every item, best first; equal scores keep the order of first appearance.

    Raises:
        ValueError: If there are not as many weights as rankings, or they are negative or all 0.
    """
    fused: dict[Item, float] = {}
    shares = _shares([1.0] * len(rankings) if weights is None else weights, len(rankings))
    for ranking, share in zip(rankings, shares, strict=True):
        for rank, item in enumerate(ranking if share > 0 else (), start=1):
            fused[item] = fused.get(item, 0.0) + share * (constant + 1) / (constant + rank)
    return _best_first(fused)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    if len(weights) != count:
        raise ValueError(f"{count} rankings need as many weights, not {len(weights)}.")
    total = float(sum(weights))
    if count and (min(weights) < 0 or not total > 0):
        raise ValueError(f"Weights must not be negative and not all 0, got {list(weights)}.")
    return [weight / total for weight in weights]


def _best_first(fused: dict[Item, float]) -> dict[Item, float]:
    return dict(sorted(fused.items(), key=lambda pair: -pair[1]))


def fuse_channels(
    similarities: list[dict[int, float]],
    coverages: list[dict[int, float]],
    shares: list[float],
    options: SearchOptions,
) -> dict[int, float]:
    """One score for each row: similarities and coverages of every reading, weighted."""
    weights = [options.dense_weight * share for share in shares] if similarities else []
    weights += [(1 - options.dense_weight) * share for share in shares] if coverages else []
    if options.fusion == "sum":
        return weighted_sum([*similarities, *coverages], weights)
    return reciprocal_rank_fusion(
        [sorted(scores, key=scores.__getitem__, reverse=True) for scores in (*similarities, *coverages)], weights
    )


def boosted(fused: Mapping[int, float], boosts: Sequence[tuple[NDArray[np.int64], float]]) -> dict[int, float]:
    """Scores with what their rows are boosted by, best first; of several boosts of a row, the most counts."""
    extras: dict[int, float] = {}
    for rows, extra in boosts:
        for row in rows.tolist():
            extras[row] = max(extra, extras.get(row, extra))
    return _best_first({row: score + extras.get(row, 0.0) for row, score in fused.items()})
