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
    """Training data of an embedding adapter.

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
    held_out = {_normalized(document.text) for path in without for document in read_corpus(path)}
    rng = random.Random(seed)
    pairs, sentences = [], []
    dropped = 0
    for pair, answers in (labelled for path in data for labelled in _pairs(path)):
        if _normalized(pair.passage) in held_out:
            dropped += 1
            continue
        pairs.append(pair)
        if memories and (sentence := _answer_sentence(answers, pair.passage)):
            pairs.append(Pair(pair.query, sentence, "memory"))
    for path in requests:
        pairs += _requests(path, rng)
    for text in dict.fromkeys(text for path in texts for text in _texts(path)):
        if _normalized(text) in held_out:
            dropped += 1
            continue
        parts = _sentences(text)
        sentences += parts
        if len(parts) >= _LONG and len(text) >= _PARAGRAPH:
            removed = rng.randrange(len(parts))
            pairs.append(Pair(parts[removed], " ".join(parts[:removed] + parts[removed + 1 :])))
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
    """Yield pairs, each with the answers that are known."""
    if path.is_dir():
        passages = {document.source: document.text for document in read_corpus(_jsonl_file(path, "corpus"))}
        relevant = read_qrels(path / "qrels.tsv")
        for question in read_questions(_jsonl_file(path, "queries")):
            for name in relevant.get(question.id, ()):
                if name in passages:
                    yield Pair(question.texts[0], passages[name]), _answers(question.row)
        return
    for row in read_rows(path, ("question",)):
        query, answers = str(row["question"]), _answers(row)
        for passage in _passages(row, path):
            if not answers or any(answer in passage.lower() for answer in answers):
                yield Pair(query, passage), answers


def _answers(row: Mapping[str, Any]) -> list[str]:
    return [str(answer).lower() for answer in row.get("answers", ())]


def _sentences(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentence_spans(text, 0, len(text))]


def _answer_sentence(answers: Sequence[str], passage: str) -> str:
    """Find the only sentence that holds an answer; empty if there is none, or several."""
    matches = [part for part in _sentences(passage) if any(answer in part.lower() for answer in answers)]
    return matches[0] if len(matches) == 1 and matches[0] != passage.strip() else ""


def _requests(path: Path, rng: random.Random) -> Iterator[Pair]:
    texts_by_intent: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(path, ("text", "intent")):
        texts_by_intent[str(row["intent"])].append(str(row["text"]))
    for intent, texts in texts_by_intent.items():
        yield from (Pair(text, intent.replace("_", " "), "tool", intent) for text in texts)
        shuffled = rng.sample(texts, len(texts))
        neighbours = zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True)
        yield from (
            Pair(text, same_intent, "example", intent) for text, same_intent in neighbours if text != same_intent
        )


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
        text = row.get("text") or row.get("question") or row.get("turn")
        text = text.get("text") if isinstance(text, dict) else text
        if not isinstance(text, str):
            raise ConfigError(f"{path}: a row has no text, question or turn", stage="config")
        yield " ".join(text.split())


def _jsonl_file(folder: Path, name: str) -> Path:
    gzipped = folder / f"{name}.jsonl.gz"
    return gzipped if gzipped.exists() else folder / f"{name}.jsonl"


def _normalized(text: str) -> str:
    return normalizer("en")(text)
