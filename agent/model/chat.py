"""What a chat model is: one forward pass is the decision to look something up and the start of the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from .prompts import SENTINEL, Message

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class FirstToken:
    """What the first forward pass says about the answer before a word of it is spoken.

    Attributes:
        ret_probability: P(``<RET>``), [0, 1]: that the model wants to look something up. Either what a trained read-out
            says, or the probability of all the tokens that spell the sentinel, never of its first bracket alone.
        top_probability: Probability of the likeliest first token, [0, 1]; NaN where the endpoint does not tell.
        margin: Gap between the two likeliest first tokens, nats (TARG, https://arxiv.org/abs/2511.09803); NaN where the
            endpoint does not tell.
        entropy: Of the first token's distribution, nats; NaN where the endpoint does not tell.
    """

    ret_probability: float
    top_probability: float = math.nan
    margin: float = math.nan
    entropy: float = math.nan


@runtime_checkable
class Generation(Protocol):
    """An answer that has begun."""

    @property
    def first(self) -> FirstToken:
        """What was known before the answer's first word; of the prompt that it began with, also after ``extend``."""
        ...

    @property
    def prefilled(self) -> int:
        """How many tokens of prompts this generation has read so far, without those that a cache held already.

        A remote model counts them as far as its endpoint tells: the usage comes with the end of an answer.
        """
        ...

    def extend(self, messages: Sequence[Message]) -> None:
        """Read more messages before answering; only they are read, the prompt is not read again.

        Args:
            messages: What follows the messages that were read so far, the user's turn last.

        Raises:
            GenerationError: If the generation is closed, or the prompt gets longer than the model can read.
            EndpointError: If a remote model does not answer.
        """
        ...

    def stream(self, max_tokens: int = 96) -> Iterator[str]:
        """Write the answer, piece by piece, deterministic (greedy). The sentinel is never among the pieces.

        Args:
            max_tokens: How long the answer may get, in tokens.

        Yields:
            Pieces of text, whole characters, with the blanks between words: joined they are the answer.

        Raises:
            GenerationError: If the generation is closed.
            EndpointError: If a remote model breaks off.
        """
        ...

    def close(self) -> None:
        """Let go of the stream, from any thread; calling it twice is harmless, and nothing revives it."""
        ...


@runtime_checkable
class ChatModel(Protocol):
    """Anything that can answer a chat."""

    @property
    def name(self) -> str:
        """Which model, for logs and the record."""
        ...

    def begin(self, messages: Sequence[Message]) -> Generation:
        """Read the prompt in one forward pass.

        Args:
            messages: The chat so far, the user's turn last.

        Returns:
            The answer that begins there; whoever asked for it closes it.

        Raises:
            GenerationError: If the prompt is empty or longer than the model can read.
            EndpointError: If a remote model does not answer.
        """
        ...


def without_sentinel(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces without the sentinel, also where it is spread over several of them."""
    held = ""
    for piece in pieces:
        held = (held + piece).replace(SENTINEL, "")
        keep = next((n for n in range(min(len(SENTINEL) - 1, len(held)), 0, -1) if held.endswith(SENTINEL[:n])), 0)
        if out := held[: len(held) - keep]:
            yield out
        held = held[len(held) - keep :]
    if held:
        yield held
