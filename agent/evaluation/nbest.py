"""How well a chooser does on lists of hypotheses without their audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vivavoce.speech import Hypothesis, Transcript, distinct
from vivavoce.speech.lists.choosing import Chooser

from ..errors import ConfigError
from ..weights import Progress
from .metrics import Errors, errors
from .rows import watched

_PLACE = 1.0
"""Nats that a hypothesis without a score loses with every place in its list."""


def ranked(hypotheses: Sequence[str], scores: Sequence[float] | None = None) -> Transcript:
    """A transcript of hypotheses. Without scores their log-probability falls with their place; copies add up.

    Args:
        hypotheses: Best first.
        scores: Log-probability of each in nats, where the recogniser gave them.

    Raises:
        ConfigError: If there are not as many scores as hypotheses.
    """
    if scores is None:
        scores = [-_PLACE * place for place in range(len(hypotheses))]
    if len(scores) != len(hypotheses):
        raise ConfigError(f"{len(hypotheses)} hypotheses have {len(scores)} scores: give one for each", stage="eval")
    listed = [Hypothesis(text, score, len(text.split()) + 1) for text, score in zip(hypotheses, scores, strict=True)]
    return Transcript(distinct(listed), "en", 0.0, 0.0)


def evaluate_lists(
    rows: Sequence[dict[str, Any]],
    chooser: Chooser,
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Word error rate of the first, the chosen and the best hypothesis of each list.

    Args:
        rows: Each with ``hypotheses`` (best first), ``text``, and perhaps ``scores``, log-probabilities.
        chooser: What is measured.
        progress: Called with lists done and in all.

    Returns:
        The summary, and one item per list.

    Raises:
        ConfigError: If a row's hypotheses are no list of texts.
    """
    best, chosen, oracle = Errors(), Errors(), Errors()
    items = []
    better = worse = 0
    for number, row in enumerate(watched(rows, progress, "choosing"), start=1):
        texts = texts_of(row["hypotheses"], number)
        choice = chooser.choose(ranked(texts, row.get("scores")))
        reference = str(row["text"])
        first_errors, chosen_errors = errors(reference, texts[0]), errors(reference, choice.text)
        for tally, counted in ((best, first_errors), (chosen, chosen_errors)):
            tally.add(*counted)
        oracle.add(*min(errors(reference, text) for text in texts))
        better, worse = better + (chosen_errors < first_errors), worse + (chosen_errors > first_errors)
        items.append(
            {
                "id": row.get("id", number),
                "text": reference,
                "best": texts[0],
                "chosen": choice.text,
                "index": choice.index,
                "confidence": round(choice.confidence, 4),
                "abstained": choice.abstained,
                "errors_1best": first_errors[0],
                "errors_chosen": chosen_errors[0],
            }
        )
    summary = {
        "n": len(items),
        "wer_1best": round(best.rate, 5),
        "wer_chosen": round(chosen.rate, 5),
        "wer_oracle": round(oracle.rate, 5),
        "relative": round(1 - chosen.rate / best.rate, 5) if best.errors else 0.0,
        "better": better,
        "worse": worse,
    }
    return summary, items


def texts_of(hypotheses: Any, number: int) -> list[str]:
    """The hypotheses of a row, which must be texts.

    Raises:
        ConfigError: If they are not; it names the row.
    """
    if not isinstance(hypotheses, list) or not hypotheses or not all(isinstance(text, str) for text in hypotheses):
        raise ConfigError(f"list {number}: hypotheses must be texts, best first, at least one", stage="eval")
    return hypotheses
