"""Trains the wording model, which tells what is said to a machine from what people say to each other."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation.rows import read_rows
from ..understanding.directed import Wording, wording_signs

_HELD_OUT = 0.25
_RARE = 3
_LENGTHS = (2, 14)
"""Words of a sentence that was not said to a machine are cut to so many: its length alone must not tell."""


def train_wording(directed: Sequence[Path], other: Sequence[Path], out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Fit a `Wording`, and measure it on a quarter of the sentences that it did not see.

    Args:
        directed: Files of sentences said to a machine, ``{text}`` or ``{turn: {text}}``, one JSON object a line,
            gzipped or not.
        other: Files of sentences said to nobody, or to people. They are cut to the lengths of requests.
        out: Where it goes, with its card.
        seed: Of the split and the cuts.

    Returns:
        The card: data, settings, figures.

    Raises:
        ConfigError: If a file cannot be read, or there are fewer than 50 sentences of a kind.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise ImportError("Training on wording needs scikit-learn: pip install 'vivavoce[train]'") from error

    rng = random.Random(seed)
    kinds = [sorted({_text(row, path) for path in paths for row in read_rows(path)}) for paths in (directed, other)]
    if min(map(len, kinds)) < 50:
        raise ConfigError(
            f"{len(kinds[0])} sentences said to a machine and {len(kinds[1])} others: give at least 50 of both",
            stage="train",
        )
    for texts in kinds:
        rng.shuffle(texts)
    kinds[1] = [_cut(text, rng) for text in kinds[1]]
    cuts = [round(len(texts) * (1 - _HELD_OUT)) for texts in kinds]
    fitted = [text for texts, cut in zip(kinds, cuts, strict=True) for text in texts[:cut]]
    held = [text for texts, cut in zip(kinds, cuts, strict=True) for text in texts[cut:]]
    labels = [True] * cuts[0] + [False] * cuts[1]
    truth = [True] * (len(kinds[0]) - cuts[0]) + [False] * (len(kinds[1]) - cuts[1])
    counts = CountVectorizer(analyzer=wording_signs, min_df=_RARE, binary=True)
    # Both kinds weigh the same: how often an assistant is spoken to is not in these files.
    model = LogisticRegression(max_iter=3000, class_weight="balanced").fit(counts.fit_transform(fitted), labels)
    weights = {sign: round(float(model.coef_[0, place]), 3) for sign, place in sorted(counts.vocabulary_.items())}
    wording = Wording(
        {sign: weight for sign, weight in weights.items() if abs(weight) >= 0.05}, float(model.intercept_[0])
    )
    scores = [wording.probability(text) for text in held]
    right = [(score >= 0.5) == true for score, true in zip(scores, truth, strict=True)]
    card = {
        "what": "logistic model of the wording of what is said to a machine",
        "data": {"directed": [path.name for path in directed], "other": [path.name for path in other]},
        "sentences": {"fitted": len(fitted), "held_out": len(held), "directed": len(kinds[0])},
        "settings": {"seed": seed, "lengths": _LENGTHS, "rare": _RARE},
        "held_out": {
            "auroc": round(float(roc_auc_score(truth, scores)), 4),
            "taken_for_directed": round(_share(right, truth), 4),
            "other_refused": round(_share(right, [not true for true in truth]), 4),
        },
    }
    data = {"card": card, "bias": round(wording.bias, 3), "weights": wording.weights}
    out.write_text(json.dumps(data, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def _share(right: Sequence[bool], chosen: Sequence[bool]) -> float:
    return sum(r for r, c in zip(right, chosen, strict=True) if c) / sum(chosen)


def _cut(text: str, rng: random.Random) -> str:
    return " ".join(text.split()[: rng.randint(*_LENGTHS)])


def _text(row: Mapping[str, Any], path: Path) -> str:
    said = row.get("turn", row)
    if not isinstance(said, Mapping) or "text" not in said:
        raise ConfigError(
            f'{path}: a row needs a "text", or a "turn" that has one; it has {", ".join(row)}', stage="train"
        )
    return str(said["text"])
