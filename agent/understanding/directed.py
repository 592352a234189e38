"""Detection of speech directed at the assistant, by its wording, a wake phrase or a command."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from vivavoce.speech import Transcript, normalizer

from ..errors import ConfigError
from .keywords import WakePhrase
from .slots import SlotFiller


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
        nats = self.bias + math.fsum(self.weights.get(sign, 0.0) for sign in wording_signs(text))
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, nats))))

    @classmethod
    def shipped(cls) -> Self:
        """Load the model that comes with the package; its card is beside it in `agent/data`."""
        with resources.as_file(resources.files("vivavoce.agent") / "data" / "directed.json") as file:
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


def wording_signs(text: str) -> set[str]:
    """Return the features of a text: its words, its first word and its first two words."""
    words = normalizer()(text).split()
    return {*words, *(f"^{' '.join(words[:n])}" for n in (1, 2) if len(words) >= n)}
