"""``vivavoce search``: looks passages up, for one question or a file of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from vivavoce.retrieval import LocalKnowledge, Passage, Query, RerankedKnowledge

from .. import weights
from ..concurrency import in_thread
from ..evaluation.rows import watched
from ..weights.registry import EMBEDDING
from .console import out, progress, tell
from .options import DeviceOption, Json, Rerank, grouped, read_filter
from .screen import passages_table


@dataclass(frozen=True)
class Searching:
    """What is looked for, and among which documents."""

    panel: ClassVar[str] = "Search"

    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5
    where: Annotated[str, typer.Option(help='Filter, as JSON: {"year": {"$gt": 2020}}; source and title too.')] = ""
    instruction: Annotated[str, typer.Option(help="The same in words: only after 2020, nothing from Bath.")] = ""
    rerank: Rerank = ""


@dataclass(frozen=True)
class Many:
    """Many questions in a file, and what is found for them in another."""

    panel: ClassVar[str] = "Many questions"

    queries: Annotated[Path | None, typer.Option(help="Instead of QUERY: {_id, text}, one a line.")] = None
    run_file: Annotated[
        Path | None,
        typer.Option("--run", help="With --queries: rankings in TREC's form."),
    ] = None

    def __post_init__(self) -> None:
        if self.run_file is not None and self.queries is None:
            raise typer.BadParameter("--run goes with --queries.")


@grouped
def search(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="An index, or a folder of documents.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in plain words.")] = None,
    *,
    searching: Searching,
    many: Many,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Find the passages of an index, or of a folder of documents, that fit a question best."""
    from ..evaluation.beir import Question, read_questions, write_run
    from ..opening import open_knowledge, open_reranker

    if (query is None) == (many.queries is None):
        raise typer.BadParameter("say what to look for, or name a file with --queries; one of both.")
    only, k, instruction = read_filter(searching.where), searching.k, searching.instruction
    asked = [Question("", (query,), {})] if query is not None else read_questions(many.queries or Path())
    with progress() as advance:
        weights.resolve(EMBEDDING, progress=advance)

        def look() -> list[tuple[Question, tuple[Passage, ...]]]:
            with open_knowledge(index_dir, device=device) as knowledge:
                base: LocalKnowledge | RerankedKnowledge = knowledge
                if searching.rerank:
                    reranker = open_reranker(searching.rerank, device=device, progress=advance)
                    base = RerankedKnowledge(knowledge, reranker)
                return [
                    (one, base.search_query(Query.of(one.texts, where=only, instruction=instruction), k))
                    for one in watched(asked, advance, "searching")
                ]

        found = in_thread(look)
    if many.run_file is not None:
        write_run(many.run_file, {one.id: [(p.id, p.score) for p in passages] for one, passages in found}, "vivavoce")
    for one, passages in found:
        if as_json:
            named = {"_id": one.id} if many.queries else {}
            tell({**named, "query": one.texts[0], "passages": _listed(passages)}, as_json)
        else:
            if many.queries is not None:
                out.print(one.texts[0], style="bold")
            out.print(passages_table(passages) if passages else "Nothing was found.")


def _listed(passages: Iterable[Passage]) -> list[dict[str, Any]]:
    """Passages as the JSON line holds them."""
    return [
        {
            "id": p.id,
            "text": p.text,
            "source": p.source,
            "heading": p.heading,
            "page": p.page,
            "score": p.score,
            "metadata": dict(p.metadata),
        }
        for p in passages
    ]
