"""Questions inside a dialogue: what "that place" is was said some turns ago."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from ..passages import KnowledgeBase, Passage
from ..query.filters import Where
from ..query.mentions import NameFinder, Sound
from ..query.query import Query, QueryKnowledge, as_query_knowledge


@dataclass(frozen=True, slots=True)
class DialogueOptions:
    """How much what was said before counts. The defaults were chosen on 45 spoken dialogues of DSTC10.

    Attributes:
        weight: What is added to the score of passages about a name that was heard without doubt in this turn.
        decay: What is left of it with every turn since.
        names: How many names are thought of at most.
        readings: How many readings of the question are searched for names.
    """

    weight: float = 0.5
    decay: float = 0.92
    names: int = 5
    readings: int = 3

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and 0 < self.decay <= 1):
            raise ValueError("weight must not be negative, and decay must lie above 0 and be at most 1.")
        if min(self.names, self.readings) < 1:
            raise ValueError("names and readings must be at least 1.")


@runtime_checkable
class NameSource(Protocol):
    """Knows what its passages are about; ``LocalKnowledge`` is one."""

    def names(self) -> str | None:
        """The key of the metadata that says what a passage is about; None if there is none."""
        ...

    def values(self, key: str) -> Collection[Any]:
        """All values of a key."""
        ...

    def ordinary(self, key: str) -> AbstractSet[str]:
        """Words, in lower case, that are said of many different things."""
        ...


class DialogueSearch:
    """Searches a knowledge base with what was said before in mind.

    Names that were spoken of, misheard or not, are matched by sound against what passages are about (a key of their
    metadata, or the titles of their pages); passages about them are boosted, those about the latest most. It is a
    knowledge base itself: asked without a dialogue, it finds names in the question. All else of a query is handed on,
    so it may stand inside or around other wrappers.
    """

    def __init__(
        self,
        knowledge: KnowledgeBase | QueryKnowledge,
        *,
        key: str | None = None,
        sound: Sound | None = None,
        options: DialogueOptions | None = None,
    ) -> None:
        """Learn the names that a knowledge base is about.

        Args:
            knowledge: What is searched: a ``LocalKnowledge``, or wrappers around one, each of which holds the next as
                ``knowledge``.
            key: The key of the metadata that holds the names; by default the one that groups passages most finely.
            sound: How a word sounds, see `Sound`; None compares letters.
            options: How much what was said before counts.

        Raises:
            ValueError: If nothing in there knows what its passages are about.
        """
        source = _name_source(knowledge)
        self.knowledge = knowledge
        self.key = key or source.names()
        self.options = options or DialogueOptions()
        self._finder: NameFinder | None = None
        if self.key is not None:
            names = [name for name in source.values(self.key) if isinstance(name, str)]
            self._finder = NameFinder(names, sound, ordinary=source.ordinary(self.key))

    def search(
        self, query: str, k: int = 5, *, where: Where | None = None, instruction: str = ""
    ) -> tuple[Passage, ...]:
        """Find passages for a question without a dialogue; see ``LocalKnowledge.search``."""
        return self.search_query(Query.of(query, where=where, instruction=instruction), k)

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for the latest turn of a dialogue.

        Args:
            query: Its possible readings, and as history what both sides said before. It is handed on whole, with a
                boost for each name that was spoken of.
            k: How many passages at most.

        Returns:
            What the knowledge base finds; see ``LocalKnowledge.search_query``.
        """
        boosts: list[tuple[Where, float]] = [
            ({str(self.key): name}, self.options.weight * share) for name, share in self.spoken_of(query)
        ]
        if boosts:
            query = replace(query, boosts=(*query.boosts, *boosts))
        return tuple(as_query_knowledge(self.knowledge).search_query(query, k))

    def spoken_of(self, query: Query) -> list[tuple[str, float]]:
        """Names that may be meant, and how much, (0, 1]; the likeliest first."""
        if self._finder is None:
            return []
        turns = [(text, 0) for text in query.texts[: self.options.readings]]
        turns += [(text, age) for age, text in enumerate(reversed(query.history), start=1)]
        shares: dict[str, float] = {}
        for text, age in turns:
            for mention in self._finder.find(text):
                share = mention.score * self.options.decay**age
                shares[mention.name] = max(share, shares.get(mention.name, 0.0))
        return sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[: self.options.names]


def _name_source(knowledge: Any) -> NameSource:
    """What knows the names: the knowledge base, or the one that it wraps."""
    inner = knowledge
    while inner is not None:
        if isinstance(inner, NameSource):
            return inner
        inner = getattr(inner, "knowledge", None)
    raise ValueError(
        f"{type(knowledge).__name__} does not know what its passages are about: put DialogueSearch around a "
        "LocalKnowledge, around a wrapper of one, or around anything with names(), values(key) and ordinary(key)."
    )
