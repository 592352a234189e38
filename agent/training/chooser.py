"""Fits how much counts when a list is rescored with the language model, on lists of which it is known what was said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vivavoce.speech import Transcript
from vivavoce.speech.lists.choosing import LanguageChooser, SentenceScorer, may_replace
from vivavoce.speech.lists.evidence import BY_HAND, EVIDENCE, fit_weights

from .. import weights
from ..checkpoint import Checkpoint, Run
from ..errors import ConfigError
from ..evaluation.metrics import errors
from ..evaluation.nbest import ranked, texts_of
from ..evaluation.rows import read_rows

_FOLDS = 5
_FEWEST = 50
_SAVE_EVERY = 25
"""Lists between two checkpoints."""


class IdentifiedScorer(SentenceScorer, Protocol):
    """A scorer that says which model it scores with."""

    @property
    def fingerprint(self) -> str:
        """Equal for two scorers if and only if they give the same scores."""
        ...


@dataclass(frozen=True, slots=True)
class _Judged:
    """A list whose readings are weighed, with what is wrong in each."""

    evidence: NDArray[np.float64]
    errors: tuple[int, ...]
    allowed: tuple[bool, ...]
    words: int


def train_chooser(
    data: Sequence[Path],
    out: Path,
    scorer: IdentifiedScorer,
    *,
    shrinkage: float = 1e-3,
    limit: int | None = None,
    progress: weights.Progress | None = None,
) -> dict[str, Any]:
    """Weigh the evidence of lists so that the fewest word errors are expected; write the weights with their card.

    What lists say is kept in a checkpoint beside `out` until all is done: a run that is broken off goes on from there.

    Args:
        data: Files of rows with `hypotheses` (best first), `text`, and, where the recogniser gave them, `scores`: the
            log-probability of each hypothesis. `vivavoce eval wer --out` writes such rows.
        out: Where the weights go, JSON.
        scorer: The language model.
        shrinkage: See ``fit_weights``.
        limit: The first so many lists of each file.
        progress: Told how many lists are read.

    Returns:
        The card: data, settings, word error rates on lists that were left out (every fifth in turn).

    Raises:
        ConfigError: If a file has another form, too few lists hold readings with more and with fewer errors, or the
            checkpoint is damaged or of another run.
    """
    rows = [row for path in data for row in read_rows(path, ("hypotheses", "text"), limit)]
    weigher = LanguageChooser(scorer)
    examples = ([row["hypotheses"], row["text"], row.get("scores")] for row in rows)
    settings = {"evidence": list(EVIDENCE), "longest": weigher.options.longest, "shrinkage": shrinkage}
    checkpoint = Checkpoint(out.with_name(f"{out.name}.checkpoint"), Run.of(examples, settings, scorer.fingerprint))
    lists = _restored(checkpoint.load())
    for number, row in enumerate(rows[len(lists) :], start=len(lists) + 1):
        transcript = ranked(texts_of(row["hypotheses"], number), row.get("scores"))
        lists.append(_judged(weigher, transcript, str(row["text"])))
        if number % _SAVE_EVERY == 0:
            checkpoint.save({"lists": [_as_plain(judged) for judged in lists]})
        if progress is not None:
            progress(number, len(rows), "reading lists")
    telling = sum(judged is not None and len(set(judged.errors)) > 1 for judged in lists)
    if telling < _FEWEST:
        checkpoint.remove()  # more data makes it another run
        raise ConfigError(
            f"only {telling} of {len(rows)} lists hold readings with more and with fewer errors: give at least "
            f"{_FEWEST}",
            stage="train",
        )
    weights = _fit(lists, shrinkage)
    left_out = [
        _chosen(_fit([x for place, x in enumerate(lists) if place % _FOLDS != fold], shrinkage), lists[fold::_FOLDS])
        for fold in range(_FOLDS)
    ]
    words = sum(judged.words for judged in lists if judged is not None)
    card = {
        "what": "weights of the evidence for each reading of a list, for LanguageChooser",
        "data": [path.name for path in data],
        "lists": len(rows),
        "telling": telling,
        "shrinkage": shrinkage,
        "words": words,
        "wer_1best": round(sum(judged.errors[0] for judged in lists if judged is not None) / words, 5),
        "wer_by_hand": round(_chosen(dict(BY_HAND), lists) / words, 5),
        "wer_left_out": round(sum(left_out) / words, 5),
        "weights": weights,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    checkpoint.remove()
    return card


def _judged(weigher: LanguageChooser, transcript: Transcript, text: str) -> _Judged | None:
    """None for a list in which there is nothing to choose: its errors are nobody's."""
    texts = [hypothesis.text for hypothesis in transcript.hypotheses[: weigher.options.longest]]
    if not texts:
        return None
    wrong = [errors(text, reading) for reading in texts]
    seen = weigher.weigh(transcript, texts) if len(texts) > 1 else np.zeros((1, len(EVIDENCE)))
    allowed = tuple(may_replace(texts[0], reading) for reading in texts)
    return _Judged(seen, tuple(count for count, _ in wrong), allowed, wrong[0][1])


def _as_plain(judged: _Judged | None) -> dict[str, Any] | None:
    """In the types that a checkpoint holds."""
    return None if judged is None else {**asdict(judged), "evidence": judged.evidence.tolist()}


def _restored(state: dict[str, Any] | None) -> list[_Judged | None]:
    """The lists of a checkpoint."""
    return [
        None if plain is None else _Judged(**{**plain, "evidence": np.array(plain["evidence"], np.float64)})
        for plain in (state["lists"] if state is not None else ())
    ]


def _fit(lists: Sequence[_Judged | None], shrinkage: float) -> dict[str, float]:
    judged = [one for one in lists if one is not None]
    return fit_weights(
        [one.evidence for one in judged],
        [one.errors for one in judged],
        [one.allowed for one in judged],
        shrinkage=shrinkage,
    )


def _chosen(weights: dict[str, float], lists: Sequence[_Judged | None]) -> int:
    """Word errors of what these weights choose."""
    row = np.array([weights.get(name, 0.0) for name in EVIDENCE])
    total = 0
    for judged in lists:
        if judged is not None:
            gains = np.where(judged.allowed, judged.evidence @ row, -np.inf)
            total += judged.errors[int(gains.argmax())]
    return total
