"""Measures searching: is what answers the question among the first?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vivavoce.retrieval import (
    ChunkOptions,
    DialogueSearch,
    Document,
    Embedder,
    LocalKnowledge,
    Query,
    QueryKnowledge,
    SearchOptions,
)

from .. import weights
from ..errors import ConfigError
from .beir import Question
from .rows import watched

DEPTH = 10
"""How far down it is looked; the measures are named after it."""


def search_options(channels: str, fusion: str) -> SearchOptions:
    """Options out of the command line's words.

    Raises:
        ConfigError: If there is no such channel or fusion.
    """
    named: Any = tuple(channel.strip() for channel in channels.split(",") if channel.strip())
    way: Any = fusion
    try:
        return SearchOptions(channels=named, fusion=way)
    except ValueError as error:
        raise ConfigError(str(error), stage="config") from error


def index_whole(
    documents: Sequence[Document], embedder: Embedder, options: SearchOptions, progress: weights.Progress | None
) -> LocalKnowledge:
    """A knowledge base in memory in which every passage of a corpus stays one passage."""
    advance = None if progress is None else (lambda done, total: progress(done, total, "embedding"))
    return LocalKnowledge.from_documents(
        documents, embedder, chunking=ChunkOptions(max_words=100_000), options=options, progress=advance
    )


def evaluate_retrieval(
    knowledge: QueryKnowledge,
    questions: Sequence[Question],
    relevant: Mapping[str, Mapping[str, int]],
    progress: weights.Progress | None = None,
    depth: int = 5 * DEPTH,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Search each question that something answers, and say how far up the answer stands.

    Args:
        knowledge: Whose passages' sources are the names in `relevant`.
        questions: What is asked; several readings of one are searched together, the first counting most.
        relevant: What answers what.
        progress: Called after each.
        depth: How many passages are asked for; a document may have several.

    Returns:
        A summary, and a row for each question.

    Raises:
        ConfigError: If nothing answers any question.
    """
    asked = [question for question in questions if relevant.get(question.id)]
    if not asked:
        raise ConfigError("no question has a passage in the qrels; do the ids of both files agree?", stage="config")
    items = []
    for question in watched(asked, progress, "searching"):
        began = time.perf_counter()
        weights = [1 / (place + 1) for place in range(len(question.texts))]
        passages = knowledge.search_query(Query.of(question.texts, weights), depth)
        spent = time.perf_counter() - began
        ranked = list({passage.source: passage.score for passage in reversed(passages)}.items())[::-1]
        ranked.sort(key=lambda pair: -pair[1])
        items.append(
            {
                "id": question.id,
                "query": question.texts[0],
                "found": ranked[:DEPTH],
                **measures([source for source, _ in ranked], relevant[question.id]),
                "ms": 1000 * spent,
            }
        )
    return summary(items), items


def measures(ranked: Sequence[str], relevant: Mapping[str, int]) -> dict[str, float]:
    """How well one ranking answers: recall at 1, 5 and 10, reciprocal rank among 5, nDCG among 10, all in [0, 1].

    Recall counts a question as answered if any passage that answers it is there (success at k), as papers on open
    questions do; with one answer a question both are the same. nDCG is trec_eval's (Järvelin and Kekäläinen 2002,
    https://doi.org/10.1145/582415.582418): the gain is the grade, discounted by the binary logarithm of the place
    plus 1.

    Args:
        ranked: Names of passages, best first, each once.
        relevant: Those that answer the question, each with a grade above 0; at least one.

    Raises:
        ImportError: If the `train` extra is not installed.
    """
    try:
        from ir_measures import RR, Success, calc_aggregate, nDCG
    except ImportError as error:
        raise ImportError("Measuring rankings needs the package ir-measures: pip install 'vivavoce[train]'") from error

    named = {
        "recall@1": Success @ 1,
        "recall@5": Success @ 5,
        "recall@10": Success @ 10,
        "mrr@5": RR @ 5,
        "ndcg@10": nDCG @ 10,
    }
    run = {name: -float(place) for place, name in enumerate(ranked)}  # equal scores would be ordered by name
    values = calc_aggregate(named.values(), {"question": dict(relevant)}, {"question": run})
    return {name: float(values[measure]) for name, measure in named.items()}


def summary(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over all items; the median of the times."""
    means = {
        name: sum(item[name] for item in items) / len(items)
        for name in ("recall@1", "recall@5", "recall@10", "mrr@5", "ndcg@10")
    }
    times = sorted(item["ms"] for item in items)
    return {"n": len(items), **means, "ms_per_query": times[len(times) // 2]}


def evaluate_dialogues(
    search: DialogueSearch, rows: Sequence[Mapping[str, Any]], progress: weights.Progress | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Search the turns of dialogues that need it, with what was said before in mind.

    Args:
        search: Whose passages' sources are the names in `doc_ids`.
        rows: `{history: [{text}], turn: {text} or {hypotheses: [{text, log_prob}]}, doc_ids, needs_retrieval}`; others
            than those that need retrieval are passed over.
        progress: Called after each.

    Returns:
        A summary, and a row for each turn.

    Raises:
        ConfigError: If no row needs retrieval.
    """
    wanted = [row for row in rows if row["needs_retrieval"] and row.get("doc_ids")]
    if not wanted:
        raise ConfigError("no row needs retrieval and names its doc_ids", stage="config")
    items = []
    for row in watched(wanted, progress, "searching"):
        readings, weights = _heard(row["turn"])
        query = Query.of(readings, weights, history=[str(turn["text"]) for turn in row["history"]])
        began = time.perf_counter()
        passages = search.search_query(query, 5 * DEPTH)
        spent = time.perf_counter() - began
        ranked = list(dict.fromkeys(passage.source for passage in passages))
        items.append(
            {
                "id": row.get("id"),
                "query": readings[0],
                "spoken_of": search.spoken_of(query),
                "found": ranked[:DEPTH],
                **measures(ranked, {str(name): 1 for name in row["doc_ids"]}),
                "ms": 1000 * spent,
            }
        )
    return summary(items), items


def _heard(turn: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Readings of a turn, and how likely each is."""
    listed = turn.get("hypotheses") or [{"text": turn["text"]}]
    scores = [float(one.get("log_prob", 0.0)) for one in listed]
    return [str(one["text"]) for one in listed], [math.exp(score - max(scores)) for score in scores]
