"""Questions, passages and which answers which, in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels.tsv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivavoce.retrieval import Document

from ..errors import ConfigError
from .rows import read_rows


@dataclass(frozen=True, slots=True)
class Question:
    """A row of `queries.jsonl`.

    Attributes:
        id: Its `_id`.
        texts: How it may have been asked, likeliest first; one, if it was typed.
        row: All fields.
    """

    id: str
    texts: tuple[str, ...]
    row: Mapping[str, Any]


def read_corpus(path: Path) -> list[Document]:
    """Read the passages, each a document named by its `_id`.

    Raises:
        ConfigError: If the file cannot be read, or two passages have the same `_id`.
    """
    documents: dict[str, Document] = {}
    for row in read_rows(path, ("_id", "text")):
        name = str(row["_id"])
        if name in documents:
            raise ConfigError(f"{path}: there are two passages {name!r}; give each its own _id", stage="config")
        title, text = str(row.get("title") or ""), str(row["text"])
        documents[name] = Document(name, text, "text", title, dict(row.get("metadata") or {}))
    return list(documents.values())


def read_questions(path: Path, field: str = "text", limit: int | None = None) -> list[Question]:
    """Read questions from a field that holds a text, or a list of hypotheses (texts, or objects with `text`).

    Raises:
        ConfigError: If the file cannot be read, or a row lacks the field.
    """
    return [Question(str(row["_id"]), _readings(row[field]), row) for row in read_rows(path, ("_id", field), limit)]


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read relevance judgements: question's `_id` to passage's `_id` to a grade above 0.

    Raises:
        ConfigError: If the file cannot be read or is no table of three or four columns.
    """
    relevant: dict[str, dict[str, int]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, columns in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                if number == 1 and len(columns) > 2 and not columns[-1].lstrip("-").isdigit():
                    continue  # the heading
                if len(columns) == 4:  # TREC's own form has a column of zeros
                    del columns[1]
                query, passage, grade = columns
                if int(grade) > 0:
                    relevant.setdefault(query, {})[passage] = int(grade)
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"Cannot read {path} ({error}): name a table of query-id, corpus-id and score, with tabs between them",
            stage="config",
        ) from error
    return relevant


def write_run(path: Path, ranked: Mapping[str, Sequence[tuple[str, float]]], name: str) -> None:
    """Write a TREC run file, which BEIR's tools read: question, Q0, passage, place, score, name of the run."""
    from vivavoce.speech.sound.audio import atomic_file

    with atomic_file(path) as file:
        for query, hits in ranked.items():
            for place, (passage, score) in enumerate(hits, start=1):
                file.write(f"{query} Q0 {passage} {place} {score:.6f} {name}\n".encode())


def _readings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(reading["text"] if isinstance(reading, Mapping) else reading) for reading in value)
