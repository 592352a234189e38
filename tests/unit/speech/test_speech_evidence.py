"""What speaks for a reading, and weights that are learned from lists."""

from __future__ import annotations

import numpy as np
import pytest

from vivavoce.speech import Hypothesis, Transcript
from vivavoce.speech.lists.evidence import BY_HAND, EVIDENCE, evidence, fit_weights

NAMES = list(EVIDENCE)
LIST = Transcript(
    tuple(
        Hypothesis(text, -float(place), 4) for place, text in enumerate(["a bant played", "a band played", "a band"])
    ),
    "en",
    0.0,
    1.0,
)


def test_all_is_told_against_the_first_reading():
    seen = evidence(LIST, ["A bant played.", "A band played.", "A band."], [-20.0, -12.0, -9.0], [5, 4, 3])
    assert seen.shape == (3, len(EVIDENCE)) and not seen[0].any()
    second = dict(zip(NAMES, seen[1], strict=True))
    assert (second["heard"], second["language"], second["tokens"]) == (-1.0, 8.0, 1.0)
    assert (second["words"], second["other"], second["shorter"]) == (-1.0, -1.0, 0.0)
    assert second["sound"] < 0 and second["risk_even"] == pytest.approx(1.0 - 2 / 3)
    spread = (1 + 2 + 1) / 3 / 3
    assert second["language_spread"] == pytest.approx(8.0 * spread)
    assert dict(zip(NAMES, seen[2], strict=True))["shorter"] == 1.0


def lists(rng, telling: str, count: int = 200):
    """Lists in which one kind of evidence says which reading is right, and the others are noise."""
    seen, wrong = [], []
    for _ in range(count):
        rows = rng.normal(size=(3, len(EVIDENCE)))
        rows[0] = 0.0
        seen.append(rows)
        best = int(rows[:, NAMES.index(telling)].argmax())
        wrong.append([0 if place == best else 2 for place in range(3)])
    return seen, wrong


@pytest.mark.parametrize("telling", ["language", "risk_even"])
def test_what_tells_gets_the_weight(telling):
    seen, wrong = lists(np.random.default_rng(0), telling)
    weights = fit_weights(seen, wrong, [[True] * 3] * len(seen))
    assert set(weights) == set(EVIDENCE)
    assert weights[telling] > 3 * max(abs(weight) for name, weight in weights.items() if name != telling)


def test_what_may_not_be_chosen_teaches_nothing():
    seen, wrong = lists(np.random.default_rng(0), "language")
    weights = fit_weights(seen, wrong, [[True, False, False]] * len(seen), shrinkage=1e-3)
    assert weights["language"] == pytest.approx(BY_HAND["language"], abs=0.01)


def test_lists_without_a_better_reading_are_refused():
    with pytest.raises(ValueError, match="nothing to learn"):
        fit_weights([np.zeros((2, len(EVIDENCE)))], [[1, 1]], [[True, True]])
