"""Was that said to me? How a sentence is worded, whether the assistant was called, and whether it is a command."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from vivavoce.speech import Transcript, normalizer

from .errors import ConfigError
from .evaluation import read_rows
from .keywords import WakePhrase
from .slots import SlotFiller

_HELD_OUT = 0.25
_RARE = 3
_LENGTHS = (2, 14)
"""Words of a sentence that was not said to a machine are cut to so many: its length alone must not tell."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A logistic model of how people word what they say to a machine.

    Attributes:
        weights: Nats for each word, for the first word, and for the first two ("^can", "^can you").
        bias: Nats.
    """

    weights: Mapping[str, float]
    bias: float

    def probability(self, text: str) -> float:
        """How probable it is that the text was said to a machine, by its words alone."""
        nats = self.bias + math.fsum(self.weights.get(sign, 0.0) for sign in _signs(text))
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, nats))))

    @classmethod
    def shipped(cls) -> Self:
        """The one that comes with the package; its card is beside it in `agent/calibration`."""
        with resources.as_file(resources.files("vivavoce.agent") / "calibration" / "directed.json") as file:
            return cls.load(file)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `train_wording` wrote.

        Raises:
            ConfigError: If the file cannot be read or holds something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls({str(sign): float(weight) for sign, weight in data["weights"].items()}, float(data["bias"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no wording ({error}): train_wording makes one", stage="config") from error


@dataclass(frozen=True, slots=True)
class Directed:
    """Whether something was said to the assistant.

    Attributes:
        directed: Yes or no.
        probability: That it was, [0, 1].
        reason: One clause, for people.
    """

    directed: bool
    probability: float
    reason: str


class DirectedSpeech:
    """Tells what is said to the assistant from what is said around it.

    Three witnesses, and any of them is enough: the wording of every hypothesis, weighed by the list's posteriors; the
    wake phrase; a command of the grammar. What nobody said is said to nobody.

    Args:
        wording: Default: the one that comes with the package, for English.
        wake: The phrase that calls the assistant, if it has one.
        commands: Its commands, if it has a grammar.
        threshold: Probability from which on it is taken for directed.

    Raises:
        ConfigError: If the threshold is out of range.
    """

    def __init__(
        self,
        wording: Wording | None = None,
        *,
        wake: WakePhrase | None = None,
        commands: SlotFiller | None = None,
        threshold: float = 0.5,
    ) -> None:
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {threshold}; use 0.5", stage="config")
        self._wording = wording or Wording.shipped()
        self._wake, self._commands, self._threshold = wake, commands, threshold

    def judge(self, heard: Transcript) -> Directed:
        """Whether `heard` was said to the assistant."""
        if not heard.is_speech:
            return Directed(False, 0.0, heard.reason)
        listed = zip(heard.hypotheses, heard.posteriors(), strict=True)
        witnesses = {"it is worded like a request": math.fsum(p * self._wording.probability(h.text) for h, p in listed)}
        if self._wake is not None:
            witnesses[f"somebody said {self._wake.phrase!r}"] = self._wake.listen(heard).probability
        if self._commands is not None:
            command = self._commands.fill(heard)
            witnesses["it is a command"] = command.confidence if command.accepted else 0.0
        probability = 1 - math.prod(1 - p for p in witnesses.values())
        if probability < self._threshold:
            return Directed(False, probability, "it is not worded like a request")
        return Directed(True, probability, max(witnesses, key=lambda reason: witnesses[reason]))


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
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rng = random.Random(seed)
    kinds = [sorted({_text(row, path) for path in paths for row in read_rows(path)}) for paths in (directed, other)]
    if min(map(len, kinds)) < 50:
        raise ConfigError(
            f"{len(kinds[0])} sentences said to a machine and {len(kinds[1])} others: give at least 50 of both",
            stage="calibrate",
        )
    for texts in kinds:
        rng.shuffle(texts)
    kinds[1] = [_cut(text, rng) for text in kinds[1]]
    cuts = [round(len(texts) * (1 - _HELD_OUT)) for texts in kinds]
    fitted = [text for texts, cut in zip(kinds, cuts, strict=True) for text in texts[:cut]]
    held = [text for texts, cut in zip(kinds, cuts, strict=True) for text in texts[cut:]]
    labels = [True] * cuts[0] + [False] * cuts[1]
    truth = [True] * (len(kinds[0]) - cuts[0]) + [False] * (len(kinds[1]) - cuts[1])
    counts = CountVectorizer(analyzer=_signs, min_df=_RARE, binary=True)
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


def _signs(text: str) -> set[str]:
    """Its words, and how it begins."""
    words = normalizer()(text).split()
    return {*words, *(f"^{' '.join(words[:n])}" for n in (1, 2) if len(words) >= n)}


def _cut(text: str, rng: random.Random) -> str:
    return " ".join(text.split()[: rng.randint(*_LENGTHS)])


def _text(row: Mapping[str, Any], path: Path) -> str:
    said = row.get("turn", row)
    if not isinstance(said, Mapping) or "text" not in said:
        raise ConfigError(
            f'{path}: a row needs a "text", or a "turn" that has one; it has {", ".join(row)}', stage="calibrate"
        )
    return str(said["text"])
