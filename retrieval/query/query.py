"""A question in one piece, and how any knowledge base is asked it.

::

    query = Query.of(readings, posteriors, history=["is there parking at Fable", "Yes, behind the house."])
    as_query_knowledge(knowledge).search_query(query, k=3)

Wrappers change what they are about, hand on all the rest, and so compose in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from ..passages import KnowledgeBase, Passage
from .filters import Where

_DEMANDS = {"where": "a filter", "instruction": "an instruction", "boosts": "boosts"}


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: everything that a search may take into account.

    Attributes:
        texts: What may have been said or typed, such as a recogniser's N-best list, usually the likeliest first.
        weights: How likely each of them is, such as its posterior; not negative, need not sum to 1. Empty stands for
            equally likely.
        history: What both sides said before, the latest last.
        where: Only documents whose metadata this holds for, such as ``{"year": {"$gt": 2020}}``; see `Where`.
        instruction: The same in plain words, such as ``"only after 2020"``; see `read_instruction`.
        boosts: Filters, each with what is added to the score of the passages that it holds for, of several the most.
            These passages are all looked at, however little they have in common with the question.
    """

    texts: tuple[str, ...]
    weights: tuple[float, ...] = ()
    history: tuple[str, ...] = ()
    where: Where | None = field(default=None, hash=False)
    instruction: str = ""
    boosts: tuple[tuple[Where, float], ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        texts, history = _texts("texts", self.texts), _texts("history", self.history)
        weights = tuple(float(weight) for weight in self.weights) or (1.0,) * len(texts)
        boosts = tuple((where, float(extra)) for where, extra in self.boosts)
        if len(weights) != len(texts):
            raise ValueError(f"{len(texts)} texts need as many weights, not {len(weights)}; without any, all count 1.")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"Weights must be finite and not negative, got {list(weights)}.")
        if not all(math.isfinite(extra) for _, extra in boosts):
            raise ValueError(f"What boosts add must be finite, got {[extra for _, extra in boosts]}.")
        for name, value in (("texts", texts), ("weights", weights), ("history", history), ("boosts", boosts)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        query: str | Sequence[str] | Query,
        weights: Sequence[float] = (),
        *,
        history: Sequence[str] = (),
        where: Where | None = None,
        instruction: str = "",
        boosts: Sequence[tuple[Where, float]] = (),
    ) -> Query:
        """Make a query of one text or of several readings; a query stays what it is, but for what is given here.

        Raises:
            ValueError: If there are not as many weights as readings, or a weight is negative or not finite.
        """
        given: dict[str, Any] = {
            "weights": tuple(weights),
            "history": history if isinstance(history, str) else tuple(history),
            "where": where,
            "instruction": instruction,
            "boosts": tuple(boosts),
        }
        if not isinstance(query, Query):
            return cls((query,) if isinstance(query, str) else tuple(query), **given)
        changes = {name: value for name, value in given.items() if value not in ((), None, "")}
        return replace(query, **changes) if changes else query

    @property
    def text(self) -> str:
        """The likeliest reading, of equal ones the first; "" if there is none."""
        return max(zip(self.texts, self.weights, strict=True), key=lambda pair: pair[1], default=("", 0.0))[0]

    def distinct(self) -> dict[str, float]:
        """The readings that hold words and may be meant, spaces evened out, each once with the weight of its copies."""
        readings: dict[str, float] = {}
        for text, weight in zip(self.texts, self.weights, strict=True):
            # Half of a surrogate pair is no text to SQLite or to a tokenizer.
            words = " ".join(text.encode("utf-8", "replace").decode().split())
            if weight > 0 and any(map(str.isalnum, words)):
                readings[words] = readings.get(words, 0.0) + weight
        return readings

    def check_supported(self, knowledge: object, *supported: str) -> None:
        """Refuse what a knowledge base cannot honour, so that its passages are not taken for what was asked for.

        Args:
            knowledge: Who is asked; named in the error.
            supported: Those of the fields ``where``, ``instruction`` and ``boosts`` that it honours.

        Raises:
            ValueError: If one of the others is set.
        """
        demanded = {
            "where": self.where is not None,
            "instruction": bool(self.instruction.strip()),
            "boosts": bool(self.boosts),
        }
        beyond = [words for name, words in _DEMANDS.items() if demanded[name] and name not in supported]
        if beyond:
            raise ValueError(
                f"{type(knowledge).__name__} cannot honour {' and '.join(beyond)} of a query: leave that out, or "
                "search a knowledge base whose search_query honours it, as that of LocalKnowledge does."
            )


@runtime_checkable
class QueryKnowledge(Protocol):
    """A knowledge base that takes a query whole."""

    def search_query(self, query: Query, k: int = 5) -> Sequence[Passage]:
        """Find passages for a query.

        Args:
            query: What is asked. Its filter, instruction and boosts are honoured or refused, never ignored; history
                counts where the knowledge base knows what to do with it. One whose texts hold no words finds nothing.
            k: How many passages at most, at least 1.

        Returns:
            Up to ``k`` passages, best first. Empty means that nothing was found.

        Raises:
            ValueError: If the query has a filter, an instruction or boosts that cannot be honoured here.
            Exception: If it could not look. An empty result never stands for a failure.
        """
        ...


class PlainKnowledge:
    """Asks a knowledge base that has only ``search(text, k)`` the likeliest reading of a query.

    The other readings and the history are left aside: such a knowledge base cannot take them into account.
    """

    def __init__(self, knowledge: KnowledgeBase) -> None:
        """Wrap a knowledge base."""
        self.knowledge = knowledge

    def search(self, query: str, k: int = 5) -> Sequence[Passage]:
        """Find passages for a question; see ``KnowledgeBase.search``."""
        return self.knowledge.search(query, k)

    def search_query(self, query: Query, k: int = 5) -> Sequence[Passage]:
        """Find passages for the likeliest reading; see ``QueryKnowledge.search_query``.

        Raises:
            ValueError: If the query has a filter, an instruction or boosts.
        """
        query.check_supported(self.knowledge)
        return self.knowledge.search(query.text, k)


def as_query_knowledge(knowledge: KnowledgeBase | QueryKnowledge) -> QueryKnowledge:
    """The knowledge base itself if it takes whole queries, else an adapter that asks it the likeliest reading."""
    return knowledge if isinstance(knowledge, QueryKnowledge) else PlainKnowledge(knowledge)


def _texts(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a tuple of texts, got {texts!r}; Query.of makes a query of one text.")
    return tuple(texts)
