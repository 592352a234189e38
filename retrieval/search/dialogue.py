"""Questions inside a dialogue: what "that place" is was said some turns ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..passages import Passage
from ..query.mentions import NameFinder, Sound
from .knowledge import LocalKnowledge


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


class DialogueSearch:
    """Searches a knowledge base with what was said before in mind.

    Names that were spoken of, misheard or not, are matched by sound against what passages are about (a key of their
    metadata, or the titles of their pages); passages about them are favoured, those about the latest most. It is a
    knowledge base itself: asked without a dialogue, it finds names in the question.
    """

    def __init__(
        self,
        knowledge: LocalKnowledge,
        *,
        key: str | None = None,
        sound: Sound | None = None,
        options: DialogueOptions | None = None,
    ) -> None:
        """Learn the names that a knowledge base is about.

        Args:
            knowledge: What is searched.
            key: The key of the metadata that holds the names; by default the one that groups passages most finely.
            sound: How a word sounds, see `Sound`; None compares letters.
            options: How much what was said before counts.
        """
        self.knowledge = knowledge
        self.key = key or knowledge.names()
        self.options = options or DialogueOptions()
        self._finder: NameFinder | None = None
        if self.key is not None:
            names = [name for name in knowledge.values(self.key) if isinstance(name, str)]
            self._finder = NameFinder(names, sound, ordinary=knowledge.ordinary(self.key))

    def search(self, query: str, k: int = 5) -> tuple[Passage, ...]:
        """Find passages for a question without a dialogue; see `LocalKnowledge.search`."""
        return self.search_dialogue([query], k=k)

    def search_many(
        self, queries: Sequence[str], weights: Sequence[float] | None = None, k: int = 5
    ) -> tuple[Passage, ...]:
        """Find passages for a question of which several readings are possible; see `LocalKnowledge.search_many`."""
        return self.search_dialogue(queries, weights, k=k)

    def search_dialogue(
        self,
        queries: Sequence[str],
        weights: Sequence[float] | None = None,
        said: Sequence[str] = (),
        k: int = 5,
    ) -> tuple[Passage, ...]:
        """Find passages for the latest turn of a dialogue.

        Args:
            queries: Its possible readings, likeliest first.
            weights: How likely each is; default: equally.
            said: What both sides said before, the latest last.
            k: How many passages at most.

        Returns:
            As `LocalKnowledge.search_many`; a score holds what a passage was favoured by.
        """
        spoken_of = self.spoken_of(queries, said)
        favour = [({str(self.key): name}, self.options.weight * share) for name, share in spoken_of]
        return self.knowledge.search_many(queries, weights, k, favour=favour)

    def spoken_of(self, queries: Sequence[str], said: Sequence[str] = ()) -> list[tuple[str, float]]:
        """Names that may be meant, and how much, (0, 1]; the likeliest first."""
        if self._finder is None:
            return []
        turns = [(query, 0) for query in queries[: self.options.readings]]
        turns += [(text, age) for age, text in enumerate(reversed(said), start=1)]
        heard: dict[str, float] = {}
        for text, age in turns:
            for mention in self._finder.find(text):
                share = mention.score * self.options.decay**age
                heard[mention.name] = max(share, heard.get(mention.name, 0.0))
        return sorted(heard.items(), key=lambda pair: (-pair[1], pair[0]))[: self.options.names]
