"""Gathers what an embedding adapter is trained on, and trains it."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivavoce.retrieval import Embedder
from vivavoce.retrieval.documents.chunking import sentence_spans
from vivavoce.speech import normalizer
from vivavoce.speech.lists.misheard import Misheard

from .. import weights
from ..errors import ConfigError
from ..evaluation.beir import read_corpus, read_qrels, read_questions
from ..evaluation.rows import read_rows
from .contrastive import train_embedder
from .plan import EmbedderTrainingOptions, Pair

_LONG, _PARAGRAPH = 3, 200
"""Sentences and characters from which a text is a paragraph, of which one sentence can be taken out and asked for."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is trained on.

    Attributes:
        pairs: Questions with passages that answer them.
        texts: Sentences.
        left_out: Passages that were left out because they stand in the data that is kept for measuring.
    """

    pairs: list[Pair]
    texts: list[str]
    left_out: int


def gather(
    data: Sequence[Path],
    texts: Sequence[Path],
    without: Sequence[Path],
    seed: int,
    *,
    requests: Sequence[Path] = (),
    memories: bool = False,
) -> Gathered:
    """Read pairs and texts, and leave out what is kept for measuring.

    Args:
        data: Folders in BEIR's layout, or files of `{question, passage}` or `{question, paragraphs: [{text,
            is_supporting}]}`; where `answers` are given, a passage without any of them is not taken for one.
        texts: Files of rows with `text`, `question` or `turn`. From paragraphs a sentence is taken out and asked for
            (inverse cloze task, Lee et al. 2019, https://arxiv.org/abs/1906.00300).
        without: Corpora (`corpus.jsonl`) whose passages are left out, wherever they stand.
        seed: Of the sentences that are taken out, and of which requests make a pair.
        requests: Files of rows with `text` and `intent`: each request with another of its intent (an example), and with
            the name of its intent (a tool).
        memories: Whether questions with `answers` are also paired with the sentence that holds one: what is remembered
            is short.

    Raises:
        ConfigError: If a file has another form.
    """
    held_out = {_plain(document.text) for path in without for document in read_corpus(path)}
    rng = random.Random(seed)
    pairs, sentences = [], []
    dropped = 0
    for pair, answers in (labelled for path in data for labelled in _pairs(path)):
        if _plain(pair.passage) in held_out:
            dropped += 1
            continue
        pairs.append(pair)
        if memories and (sentence := _holding(answers, pair.passage)):
            pairs.append(Pair(pair.query, sentence, "memory"))
    for path in requests:
        pairs += _requests(path, rng)
    for text in dict.fromkeys(text for path in texts for text in _texts(path)):
        if _plain(text) in held_out:
            dropped += 1
            continue
        parts = _sentences(text)
        sentences += parts
        if len(parts) >= _LONG and len(text) >= _PARAGRAPH:
            taken = rng.randrange(len(parts))
            pairs.append(Pair(parts[taken], " ".join(parts[:taken] + parts[taken + 1 :])))
    sentences += [part for pair in pairs if pair.task == "knowledge" for part in _sentences(pair.passage)]
    return Gathered(
        list(dict.fromkeys(pairs)), list(dict.fromkeys(part for part in sentences if 15 < len(part) < 300)), dropped
    )


def train(
    model: Any,
    tokenizer: Any,
    teacher: Embedder | None,
    gathered: Gathered,
    out: Path,
    *,
    options: EmbedderTrainingOptions,
    seed: int,
    files: Sequence[Path],
    progress: weights.Progress | None = None,
) -> dict[str, Any]:
    """Train an adapter on what was gathered; see `contrastive.train_embedder`."""
    misheard = Misheard([*gathered.texts, *(pair.query for pair in gathered.pairs)])
    about = {
        "data": [f"{path.parent.name}/{path.name}" for path in files],
        "left_out": gathered.left_out,
        "command": " ".join(["vivavoce", *(Path(word).name if "/" in word else word for word in sys.argv[1:])]),
    }
    return train_embedder(
        model,
        tokenizer,
        gathered.pairs,
        gathered.texts,
        out,
        teacher=teacher,
        misheard=misheard,
        options=options,
        seed=seed,
        about=about,
        progress=progress,
    )


def _pairs(path: Path) -> Iterator[tuple[Pair, Sequence[str]]]:
    """Pairs, each with the answers that are known."""
    if path.is_dir():
        passages = {document.source: document.text for document in read_corpus(_json_lines(path, "corpus"))}
        relevant = read_qrels(path / "qrels.tsv")
        for question in read_questions(_json_lines(path, "queries")):
            for name in relevant.get(question.id, ()):
                if name in passages:
                    yield Pair(question.texts[0], passages[name]), _answers(question.row)
        return
    for row in read_rows(path, ("question",)):
        asked, answers = str(row["question"]), _answers(row)
        for passage in _passages(row, path):
            if not answers or any(answer in passage.lower() for answer in answers):
                yield Pair(asked, passage), answers


def _answers(row: Mapping[str, Any]) -> list[str]:
    return [str(answer).lower() for answer in row.get("answers", ())]


def _sentences(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentence_spans(text, 0, len(text))]


def _holding(answers: Sequence[str], passage: str) -> str:
    """The one sentence that holds an answer; empty if it is not one."""
    found = [part for part in _sentences(passage) if any(answer in part.lower() for answer in answers)]
    return found[0] if len(found) == 1 and found[0] != passage.strip() else ""


def _requests(path: Path, rng: random.Random) -> Iterator[Pair]:
    said: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(path, ("text", "intent")):
        said[str(row["intent"])].append(str(row["text"]))
    for intent, texts in said.items():
        yield from (Pair(text, intent.replace("_", " "), "tool", intent) for text in texts)
        others = rng.sample(texts, len(texts))
        turned = zip(others, [*others[1:], others[0]], strict=True)
        yield from (Pair(one, other, "example", intent) for one, other in turned if one != other)


def _passages(row: dict[str, Any], path: Path) -> Iterable[str]:
    if row.get("passage"):
        return [str(row["passage"])]
    if "paragraphs" in row:
        return [str(part["text"]) for part in row["paragraphs"] if part.get("is_supporting", True)]
    raise ConfigError(
        f"{path}: a row has neither passage nor paragraphs; to read lone texts, use --texts", stage="config"
    )


def _texts(path: Path) -> Iterator[str]:
    for row in read_rows(path):
        found = row.get("text") or row.get("question") or row.get("turn")
        found = found.get("text") if isinstance(found, dict) else found
        if not isinstance(found, str):
            raise ConfigError(f"{path}: a row has no text, question or turn", stage="config")
        yield " ".join(found.split())


def _json_lines(folder: Path, name: str) -> Path:
    zipped = folder / f"{name}.jsonl.gz"
    return zipped if zipped.exists() else folder / f"{name}.jsonl"


def _plain(text: str) -> str:
    return normalizer("en")(text)
