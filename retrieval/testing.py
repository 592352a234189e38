"""Small real parts for tests, and the contracts that every embedder and every knowledge base must keep.

Run ``check_embedder(MyEmbedder())`` or ``check_knowledge(MyKnowledge())`` in your own tests: they raise
``AssertionError`` with a sentence about what is wrong.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from .embedding.embedder import Embedder, Kind, Vectors
from .passages import KnowledgeBase, Passage
from .query.query import Query, QueryKnowledge

AWKWARD_QUERIES = (
    "",
    "   \n\t",
    '"',
    "'; DROP TABLE passages; --",
    "latte AND OR NOT NEAR(milk, 2)",
    "title:latte* ^milk -oat +soy",
    "(((",
    "?!… — ¿",
    "naïve café 拿铁 ☕ \u0301",
    "\0\ud800",
    "the of and",
    "word " * 3000,
)
"""Questions that a knowledge base must survive."""


class HashEmbedder:
    """Bag of words by hashing (Weinberger et al. 2009): texts that share words are close. Needs no weights."""

    def __init__(self, dim: int = 256) -> None:
        """Make one with vectors of this length."""
        self.name = "hash"
        self.dim = dim
        self.fingerprint = f"hash-{dim}"

    def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Embed texts; see ``Embedder.embed``. Both kinds are treated alike."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                code = zlib.crc32(word.encode("utf-8", "replace"))
                vectors[row, code % self.dim] += 1.0 if code >> 31 else -1.0
            if not vectors[row].any():  # words that cancelled out
                vectors[row, 0] = 1.0
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class FakeKnowledge:
    """A knowledge base over a handful of passages: the share of the question's words that a passage holds."""

    def __init__(self, passages: Sequence[Passage | str]) -> None:
        """Take passages, or plain texts, which get ids and sources of their own."""
        self.passages = tuple(
            passage if isinstance(passage, Passage) else Passage(f"p{number}", passage, f"fake-{number}.md")
            for number, passage in enumerate(passages)
        )
        self.asked: list[Query] = []
        """What was asked, in order."""

    @property
    def queries(self) -> list[str]:
        """The likeliest readings of what was asked, in order."""
        return [query.text for query in self.asked]

    def search(self, query: str, k: int = 5) -> tuple[Passage, ...]:
        """Find passages that share words with the question; see ``KnowledgeBase.search``."""
        return self.search_query(Query.of(query), k)

    def search_query(self, query: Query, k: int = 5) -> tuple[Passage, ...]:
        """Find passages that share words with the readings, which count by weight; see ``QueryKnowledge.search_query``.

        Raises:
            ValueError: If the query has a filter, an instruction or boosts.
        """
        query.check_supported(self)
        self.asked.append(query)
        readings = query.distinct()
        total = sum(readings.values())
        scored = (
            replace(
                passage,
                score=sum(weight / total * _shared(reading, passage.text) for reading, weight in readings.items()),
            )
            for passage in self.passages
        )
        return tuple(sorted((passage for passage in scored if passage.score > 0), key=lambda one: -one.score)[:k])


def _shared(reading: str, text: str) -> float:
    """Share of the words of a reading that a text holds."""
    words = set(re.findall(r"\w+", reading.lower()))
    return len(words & set(re.findall(r"\w+", text.lower()))) / max(len(words), 1)


def check_embedder(embedder: Embedder) -> None:
    """Check that an embedder keeps its contract.

    Raises:
        AssertionError: With a sentence about what is wrong.
    """
    assert embedder.name and isinstance(embedder.name, str), "name must be a text that is not empty."
    assert embedder.fingerprint == embedder.fingerprint != "", "fingerprint must be a text that does not change."
    texts = ["We open at seven.", "", "Oat milk costs sixty cents more. " * 40, "拿铁 ☕", "We open at seven."]
    for kind in ("passage", "query"):
        vectors = embedder.embed(texts, kind=kind)
        assert isinstance(vectors, np.ndarray), f"embed(kind={kind!r}) must return a NumPy array."
        assert vectors.shape == (len(texts), embedder.dim), (
            f"embed(kind={kind!r}) must have shape {(len(texts), embedder.dim)}, has {vectors.shape}."
        )
        assert vectors.dtype == np.float32, f"Vectors must be float32, are {vectors.dtype}."
        assert np.isfinite(vectors).all(), "Vectors must be finite."
        lengths = np.linalg.norm(vectors, axis=1)
        assert np.allclose(lengths, 1, atol=1e-3), f"Vectors must be of unit length, are of {lengths.tolist()}."
        assert np.allclose(vectors[0], vectors[4], atol=1e-2), "Equal texts must have equal vectors."
        assert not np.allclose(vectors[0], vectors[2], atol=1e-2), "Different texts must have different vectors."
        alone = embedder.embed(texts[:1], kind=kind)
        assert np.allclose(alone[0], vectors[0], atol=2e-2), "A text's vector must not depend on its neighbours."
        assert embedder.embed([], kind=kind).shape == (0, embedder.dim), "No texts must give shape (0, dim)."
    with ThreadPoolExecutor(4) as threads:
        for vectors in threads.map(lambda _: embedder.embed(texts[:2]), range(8)):
            assert vectors.shape == (2, embedder.dim), "Calls from several threads must not disturb each other."


def check_knowledge(knowledge: KnowledgeBase | QueryKnowledge, query: str = "When do you open?") -> None:
    """Check that a knowledge base keeps its contract: that of ``search``, of ``search_query``, or of both.

    Args:
        knowledge: What to check.
        query: A question that it finds something for.

    Raises:
        AssertionError: With a sentence about what is wrong.
    """
    assert isinstance(knowledge, KnowledgeBase | QueryKnowledge), "A knowledge base has search, or search_query."
    hits: dict[str, list[str]] = {}
    if isinstance(knowledge, KnowledgeBase):
        hits["search"] = _check_search(knowledge.search, query, "search")
    if isinstance(knowledge, QueryKnowledge):
        asking = knowledge
        hits["search_query"] = _check_search(
            lambda text, *args, **named: asking.search_query(Query.of(text), *args, **named), query, "search_query"
        )
        _check_query(asking, query, hits["search_query"])
    same = len({tuple(ids) for ids in hits.values()}) == 1
    assert same, f"search(text) and search_query(Query.of(text)) must find the same, found {hits}."


def _check_search(search: Callable[..., Sequence[Passage]], query: str, door: str) -> list[str]:
    """Check one way of searching; gives the ids of what it finds."""
    passages = search(query)
    assert 1 <= len(passages) <= 5, (
        f"{door}({query!r}) must give 1 to 5 passages (k is 5 by default), gave {len(passages)}."
    )
    for passage in passages:
        assert isinstance(passage, Passage), f"{door} must give Passage objects, gave {type(passage).__name__}."
        assert passage.text.strip(), "A passage must hold text."
        assert passage.source, "A passage must say where it comes from."
    ids = [passage.id for passage in passages]
    assert len(set(ids)) == len(ids), f"The ids within one result must differ, are {ids}."
    scores = [passage.score for passage in passages]
    assert scores == sorted(scores, reverse=True), f"Passages must be sorted by score, best first, got {scores}."
    assert [passage.id for passage in search(query, k=1)] == ids[:1], "k=1 must give the best alone."
    assert [passage.id for passage in search(query, 5)] == ids, "The same question must find the same."
    for awkward in AWKWARD_QUERIES:
        assert len(search(awkward, 3)) <= 3, f"{door}({awkward[:40]!r}, 3) gave more than 3 passages."
    for blank in AWKWARD_QUERIES[:2]:
        assert not search(blank), "A question without words must find nothing."
    with ThreadPoolExecutor(4) as threads:
        for again in threads.map(lambda _: search(query), range(16)):
            assert [passage.id for passage in again] == ids, "Searches in several threads must not disturb each other."
    return ids


def _check_query(knowledge: QueryKnowledge, query: str, ids: Sequence[str]) -> None:
    """Check what a query holds beside a text; `ids` are what it finds for the text alone."""
    listed = knowledge.search_query(Query.of(["", query], [0.1, 0.9]))
    assert [passage.id for passage in listed] == ids, "A reading without words must not count."
    assert not knowledge.search_query(Query(())), "A query without readings must find nothing."
    assert len(knowledge.search_query(Query.of(query, history=["Hello.", *AWKWARD_QUERIES]), 3)) <= 3, (
        "A query with a history gave more than k passages."
    )
    source = knowledge.search_query(Query.of(query), 1)[0].source
    for where, fits in (({"source": source}, {source}), ({"no-such-key": "x"}, set[str]())):
        try:
            passages = knowledge.search_query(Query.of(query, where=where))
        except ValueError:  # refused
            continue
        assert {passage.source for passage in passages} <= fits, (
            f"The filter {where!r} was ignored: honour it, or refuse it with a ValueError (Query.check_supported)."
        )
