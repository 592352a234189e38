"""What can go wrong in the agent.

::

    AgentError               stage, retryable
    ├── ConfigError          a setting or a name is wrong; the message offers the fix
    ├── ModelUnavailable     weights are missing, damaged or cannot be fetched
    ├── EndpointError        a remote model did not answer as agreed
    ├── GenerationError      the language model failed in the middle of an answer
    └── TurnCancelled        nobody waits for the answer any more
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of every error that the agent raises on purpose.

    Attributes:
        stage: Where it happened, one word ("config", "models", "answer", …).
        retryable: Whether the same call may succeed later with nothing changed.
    """

    def __init__(self, message: str, *, stage: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.retryable = retryable


class ConfigError(AgentError):
    """A setting or a name that cannot be used."""


class ModelUnavailable(AgentError):
    """Weights that are missing, damaged or out of reach."""


class EndpointError(AgentError):
    """A remote model that did not answer as agreed."""


class GenerationError(AgentError):
    """A language model that failed while it was answering."""


class TurnCancelled(AgentError):
    """A turn whose consumer has gone."""
