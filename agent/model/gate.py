"""Gates, which decide when to retrieve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vivavoce.speech import Transcript

from ..errors import ConfigError
from .chat import FirstToken


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to look something up before answering.

    Attributes:
        retrieve: Yes or no.
        probability: P(``<RET>``) as the gate sees it, [0, 1].
        gate: Which gate decided.
        reason: One clause, for people.
    """

    retrieve: bool
    probability: float
    gate: str
    reason: str


@runtime_checkable
class Gate(Protocol):
    """Decides whether an answer needs the knowledge base."""

    @property
    def name(self) -> str:
        """For the record and the screen."""
        ...

    def decide(self, first: FirstToken, heard: Transcript) -> Decision:
        """Decide from what the model is about to say and from how well the user was heard."""
        ...


@dataclass(frozen=True, slots=True)
class NeverRetrieve:
    """Answers everything from the model alone."""

    name: str = "never"

    def decide(self, first: FirstToken, heard: Transcript) -> Decision:
        """Decide not to retrieve."""
        return Decision(False, first.ret_probability, self.name, "never looks anything up")


@dataclass(frozen=True, slots=True)
class AlwaysRetrieve:
    """Looks everything up."""

    name: str = "always"

    def decide(self, first: FirstToken, heard: Transcript) -> Decision:
        """Decide to retrieve."""
        return Decision(True, first.ret_probability, self.name, "always looks everything up")


@dataclass(frozen=True, slots=True)
class TokenGate:
    """Looks up when P(``<RET>``) reaches a threshold (Adapt-LLM, https://arxiv.org/abs/2404.19705).

    Attributes:
        threshold: (0, 1). The shipped one is fitted on held-out dialogue turns; see the card in ``agent/data``.
    """

    threshold: float = 0.5
    name: str = "token"

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"threshold must lie between 0 and 1, not {self.threshold}; or take NeverRetrieve, AlwaysRetrieve",
                stage="config",
            )

    def decide(self, first: FirstToken, heard: Transcript) -> Decision:
        """Compare P(``<RET>``) with the threshold."""
        retrieve = first.ret_probability >= self.threshold
        sign = "≥" if retrieve else "<"
        reason = f"P(<RET>) {first.ret_probability:.2f} {sign} {self.threshold:.2f}"
        return Decision(retrieve, first.ret_probability, self.name, reason)
