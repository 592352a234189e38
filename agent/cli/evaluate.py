"""``vivavoce eval …``: measure a part on data of one's own; paths in, one summary object out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from ..concurrency import in_thread
from ..evaluation.rows import read_clips, read_rows, write_rows
from ..weights import EMBEDDING, Progress, resolve
from .console import progress, tell
from .options import (
    OUTPUT,
    DeviceOption,
    Embedding,
    Json,
    Limit,
    Manifest,
    NBest,
    Noisy,
    Output,
    Recognising,
    Rerank,
    grouped,
    spoken,
)

eval_app = typer.Typer(help="Measure a part on data of your own.", no_args_is_help=True)

Corpus = Annotated[Path, typer.Option("--corpus", help="Passages: {_id, text, title?, metadata?}, one a line.")]
Channels = Annotated[str, typer.Option("--channels", help="Where to look, with commas between.")]

Measured = tuple[dict[str, Any], list[dict[str, Any]]]
"""A summary, and one row for each item."""


def _report(measure: Callable[[Progress], Measured], output: Output) -> list[dict[str, Any]]:
    """Measure in a thread, under a progress bar; write the items, tell the summary, and return the items."""
    with progress() as advance:
        summary, items = in_thread(lambda: measure(advance))
    if output.out is not None:
        write_rows(output.out, items)
    tell(summary, output.as_json)
    return items


@eval_app.command()
@grouped
def commands(
    manifest: Manifest,
    grammar: Annotated[Path, typer.Option(help="Rhino context (.yaml), or {intent: {slot: [values]}} (.json).")],
    *,
    examples: Annotated[
        Path | None, typer.Option(help="Sample utterances, one a line: how many of them the grammar understands.")
    ] = None,
    noisy: Noisy,
    bias: Annotated[bool, typer.Option(help="Tell the recogniser the values of the slots.")] = False,
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    output: Output,
) -> None:
    """Spoken commands: intent and all slots right, from the list and from its first hypothesis."""
    from ..evaluation.commands import evaluate_commands, understood_examples
    from ..opening import open_whisper
    from ..understanding.grammar import Grammar
    from ..understanding.slots import COMMAND_HEARING, SlotFiller

    filler = SlotFiller(Grammar.load(grammar))
    clips, mixed = read_clips(manifest, ("intent", "slots"), output.limit), noisy.read()

    def measure(advance: Progress) -> Measured:
        recognizer = open_whisper(device=device, progress=advance, options=COMMAND_HEARING)
        prompt = filler.prompt if bias else ""
        summary, items = evaluate_commands(
            clips, recognizer, filler, n_best=n_best, noise=mixed, prompt=prompt, progress=advance
        )
        if examples is not None:
            summary["examples_understood"] = understood_examples(examples, filler)
        return summary, items

    _report(measure, output)


@eval_app.command()
@grouped
def keywords(
    manifest: Manifest,
    field: Annotated[str, typer.Option(help="Where a row holds its keyword; 8 is taken for eight.")],
    words: Annotated[str, typer.Option("--keywords", help="All keywords, with commas between them.")],
    *,
    bias: Annotated[bool, typer.Option(help="Tell the recogniser the keywords.")] = True,
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    output: Output,
) -> None:
    """Spoken keywords, one in each recording: named right, from the list and from its first hypothesis."""
    from ..evaluation.commands import evaluate_keywords
    from ..opening import open_whisper
    from ..understanding.keywords import KEYWORD_HEARING, KeywordSpotter

    spotter = KeywordSpotter([word.strip() for word in words.split(",") if word.strip()])
    clips = read_clips(manifest, (field,), output.limit)

    def measure(advance: Progress) -> Measured:
        recognizer = open_whisper(device=device, progress=advance, options=KEYWORD_HEARING)
        prompt = spotter.prompt if bias else ""
        return evaluate_keywords(clips, recognizer, spotter, field, n_best=n_best, prompt=prompt, progress=advance)

    _report(measure, output)


@eval_app.command()
@grouped
def intents(
    train: Annotated[Path, typer.Option("--train", help="Rows with text and intent.")],
    test: Annotated[Path, typer.Option("--test", help="Rows with intent and the field.")],
    *,
    field: Annotated[Literal["asr", "text", "hypotheses"], typer.Option(help="What of a test row is read.")] = "text",
    device: DeviceOption = "auto",
    output: Output,
) -> None:
    """Intents, learned from one file and predicted for another, beside logistic regression on sentence vectors."""
    from ..evaluation.intents import evaluate_intents
    from ..model.embedder import default_embedder
    from ..understanding.intents import IntentClassifier
    from ..understanding.readers import open_readers

    learned, asked = read_rows(train, ("intent",)), read_rows(test, ("intent", field), output.limit)

    def measure(advance: Progress) -> Measured:
        embedder = default_embedder(device, advance)
        readers = open_readers(embedder=embedder, device=device, progress=advance)
        classifier = IntentClassifier(readers, encoder=resolve(EMBEDDING, progress=advance), device=device)
        return evaluate_intents(classifier, learned, asked, field, baseline=embedder, progress=advance)

    _report(measure, output)


@eval_app.command()
@grouped
def nbest(
    data: Annotated[Path, typer.Option("--data", help="Rows with hypotheses (texts, best first) and text.")],
    *,
    choose: Annotated[str, typer.Option("--choose", help="1best, rover, mbr, lm, corrector or auto.")] = "auto",
    adapter: Annotated[Path | None, typer.Option(help="Folder of the adapter, for --choose corrector.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Of `vivavoce train chooser`, for --choose lm.")] = None,
    device: DeviceOption = "auto",
    output: Output,
) -> None:
    """Lists of hypotheses without their audio: word error rate of the first, the chosen and the best one."""
    from ..evaluation.nbest import evaluate_lists
    from ..opening import open_chooser

    rows = read_rows(data, ("hypotheses", "text"), output.limit)

    def measure(advance: Progress) -> Measured:
        chooser = open_chooser(choose, adapter=adapter, weights=weights, device=device, progress=advance)
        return evaluate_lists(rows, chooser, progress=advance)

    _report(measure, output)


@eval_app.command()
@grouped
def wer(
    manifest: Manifest,
    *,
    recognising: Recognising,
    noisy: Noisy,
    choose: Annotated[str, typer.Option("--choose", help="1best, rover, mbr, lm or auto.")] = "1best",
    rival: Annotated[bool, typer.Option(help="Time faster-whisper on the same clips.")] = True,
    n_best: NBest = 5,
    output: Output,
) -> None:
    """Recordings with their text: error rates of lists, time, calibration, and faster-whisper in the same run."""
    from ..evaluation.speech import evaluate_wer, faster_whisper
    from ..opening import open_chooser
    from ..weights.registry import ASR

    clips, mixed = read_clips(manifest, ("text",), output.limit), noisy.read()

    def measure(advance: Progress) -> Measured:
        recognizer = recognising.opened(advance)
        chooser = None if choose == "1best" else open_chooser(choose, device=recognising.device, progress=advance)
        language = spoken(recognising.language)
        other = faster_whisper(str(resolve(ASR, progress=advance)), language) if rival else None
        return evaluate_wer(
            clips, recognizer, n_best=n_best, noise=mixed, chooser=chooser, rival=other, progress=advance
        )

    _report(measure, output)


@eval_app.command()
@grouped
def speech_gate(
    manifest: Manifest,
    expect: Annotated[Literal["speech", "none"], typer.Option(help="What the recordings hold.")],
    *,
    recognising: Recognising,
    output: Output,
) -> None:
    """Recordings of speech, or of none: how many are heard as speech, and why the others are refused."""
    from ..evaluation.speech import evaluate_speech_gate

    clips = read_clips(manifest, (), output.limit)

    def measure(advance: Progress) -> Measured:
        recognizer = recognising.opened(advance)
        return evaluate_speech_gate(clips, recognizer, expect_speech=expect == "speech", progress=advance)

    _report(measure, output)


@eval_app.command()
@grouped
def calibrate(
    manifest: Manifest,
    *,
    recognising: Recognising,
    noisy: Noisy,
    n_best: NBest = 5,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Fit how sure a list may be of its first hypothesis, on recordings with their text."""
    from ..evaluation.speech import evaluate_calibration

    clips, mixed = read_clips(manifest, ("text",), limit), noisy.read()

    def measure(advance: Progress) -> Measured:
        recognizer = recognising.opened(advance)
        return evaluate_calibration(clips, recognizer, n_best=n_best, noise=mixed, progress=advance), []

    _report(measure, Output(as_json=as_json))


@eval_app.command()
@grouped
def streaming(
    manifest: Manifest,
    *,
    endpoint_delay: Annotated[
        float | None,
        typer.Option(min=0.01, help="Seconds of silence that end an utterance; adapts to the speaker by default."),
    ] = None,
    min_seconds: Annotated[float, typer.Option(help="Leave shorter recordings out.")] = 3.0,
    max_seconds: Annotated[float, typer.Option(help="Leave longer recordings out.")] = 8.0,
    recognising: Recognising,
    n_best: NBest = 5,
    output: Output,
) -> None:
    """How soon partials and the final list are there when recordings are played in real time."""
    from ..evaluation.streaming import evaluate_streaming

    clips = read_clips(manifest, ("text",))

    def measure(advance: Progress) -> Measured:
        recognizer = recognising.opened(advance)
        return evaluate_streaming(
            clips,
            recognizer,
            endpoint_delay=endpoint_delay,
            n_best=n_best,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            limit=output.limit,
            progress=advance,
        )

    _report(measure, output)


@dataclass(frozen=True)
class Judged:
    """Questions whose answers are known: a test of search in BEIR's form."""

    panel: ClassVar[str] = "Test set"

    corpus: Corpus
    queries: Annotated[Path, typer.Option(help="Questions: {_id, text, …}, one a line.")]
    qrels: Annotated[Path, typer.Option(help="Table of query-id, corpus-id, score.")]
    field: Annotated[str, typer.Option(help="What is asked: text, asr, or a list such as hypotheses.")] = "text"


@eval_app.command()
@grouped
def retrieval(
    judged: Judged,
    *,
    embedding: Embedding,
    channels: Channels = "dense,keyword,phonetic",
    fusion: Annotated[str, typer.Option(help="How channels are joined: sum or rrf.")] = "sum",
    rerank: Rerank = "",
    device: DeviceOption = "auto",
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Rankings in TREC's form, for BEIR's tools.", rich_help_panel=OUTPUT)
    ] = None,
    output: Output,
) -> None:
    """Search: is the passage that answers among the first 1, 5, 10?"""
    from vivavoce.retrieval import RerankedKnowledge

    from ..evaluation.beir import read_corpus, read_qrels, read_questions, write_run
    from ..evaluation.retrieval import DEPTH, evaluate_retrieval, index_whole, search_options
    from ..opening import open_reranker

    options = search_options(channels, fusion)
    documents, relevant = read_corpus(judged.corpus), read_qrels(judged.qrels)
    asked = read_questions(judged.queries, judged.field, output.limit)

    def measure(advance: Progress) -> Measured:
        vectors = embedding.opened(device, advance)
        knowledge = index_whole(documents, vectors, options, advance)
        if not rerank:
            return evaluate_retrieval(knowledge, asked, relevant, advance)
        reranker = open_reranker(rerank, device=device, progress=advance)
        ordered = RerankedKnowledge(knowledge, reranker, depth=DEPTH)
        return evaluate_retrieval(ordered, asked, relevant, advance, depth=DEPTH)

    items = _report(measure, output)
    if run_file is not None:
        write_run(run_file, {item["id"]: item["found"] for item in items}, embedding.embedder or "default")


@eval_app.command("dialogue-retrieval")
@grouped
def dialogue_retrieval(
    data: Annotated[Path, typer.Option("--data", help="Rows of history, turn, doc_ids, needs_retrieval.")],
    corpus: Corpus,
    *,
    key: Annotated[str | None, typer.Option(help="Key of the metadata that says what a passage is about.")] = None,
    embedding: Embedding,
    channels: Channels = "dense,keyword,phonetic",
    device: DeviceOption = "auto",
    output: Output,
) -> None:
    """Search inside dialogues: only turns that need retrieval count."""
    from vivavoce.retrieval import DialogueSearch
    from vivavoce.speech.lists.phonetics import sound_string

    from ..evaluation.beir import read_corpus
    from ..evaluation.retrieval import evaluate_dialogues, index_whole, search_options

    options = search_options(channels, "sum")
    rows, documents = read_rows(data, ("history", "turn", "needs_retrieval"), output.limit), read_corpus(corpus)

    def measure(advance: Progress) -> Measured:
        vectors = embedding.opened(device, advance)
        knowledge = index_whole(documents, vectors, options, advance)
        return evaluate_dialogues(DialogueSearch(knowledge, key=key, sound=sound_string), rows, advance)

    _report(measure, output)
