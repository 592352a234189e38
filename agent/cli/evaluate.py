"""``vivavoce eval …``: measure a part on data of one's own; paths in, one summary object out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..concurrency import in_thread
from ..evaluation.noise import Noise
from ..evaluation.rows import read_clips, read_rows, write_rows
from ..weights import EMBEDDING, Progress, resolve
from .console import DeviceOption, Json, NBest, Rerank, device_name, progress, spoken, tell

eval_app = typer.Typer(help="Measure a part on data of your own.", no_args_is_help=True)

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="The first N items only.")]
Out = Annotated[Path | None, typer.Option("--out", help="One JSON line per item.")]
Manifest = Annotated[Path, typer.Option("--manifest", help="NeMo manifest: one JSON object per line.")]
NoiseOption = Annotated[Path | None, typer.Option("--noise", help="A recording of noise, or a folder of them.")]
Snr = Annotated[float, typer.Option("--snr", help="dB by which speech is louder than --noise.")]
Engine = Annotated[str, typer.Option("--engine", help="ctranslate2, openai, transformers, ctc, or module:Class.")]
Model = Annotated[str | None, typer.Option("--model", help="What the engine runs; Whisper base by default.")]
Language = Annotated[
    str, typer.Option("--language", help="What is spoken, as a code such as en; auto lets the recogniser detect it.")
]

Measured = tuple[dict[str, Any], list[dict[str, Any]]]
"""A summary, and one row for each item."""


def _report(measure: Callable[[Progress], Measured], output: Path | None, as_json: bool) -> None:
    """Measure in a thread, under a progress bar; write the items and tell the summary."""
    with progress() as advance:
        summary, items = in_thread(lambda: measure(advance))
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)


def _noise(path: Path | None, snr: float) -> Noise | None:
    return None if path is None else Noise.read(path, snr)


@eval_app.command()
def commands(
    manifest: Manifest,
    grammar: Annotated[Path, typer.Option(help="Rhino context (.yaml), or {intent: {slot: [values]}} (.json).")],
    examples: Annotated[
        Path | None, typer.Option(help="Sample utterances, one a line: how many of them the grammar understands.")
    ] = None,
    noise: NoiseOption = None,
    snr: Snr = 10.0,
    bias: Annotated[bool, typer.Option(help="Tell the recogniser the values of the slots.")] = False,
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Spoken commands: intent and all slots right, from the list and from its first hypothesis."""
    from ..evaluation.commands import evaluate_commands, understood_examples
    from ..opening import open_whisper
    from ..understanding.grammar import Grammar
    from ..understanding.slots import COMMAND_HEARING, SlotFiller

    where = device_name(device)
    filler = SlotFiller(Grammar.load(grammar))
    clips, mixed = read_clips(manifest, ("intent", "slots"), limit), _noise(noise, snr)

    def measure(advance: Progress) -> Measured:
        recognizer = open_whisper(device=where, progress=advance, options=COMMAND_HEARING)
        prompt = filler.prompt if bias else ""
        summary, items = evaluate_commands(
            clips, recognizer, filler, n_best=n_best, noise=mixed, prompt=prompt, progress=advance
        )
        if examples is not None:
            summary["examples_understood"] = understood_examples(examples, filler)
        return summary, items

    _report(measure, output, as_json)


@eval_app.command()
def keywords(
    manifest: Manifest,
    field: Annotated[str, typer.Option(help="Where a row holds its keyword; 8 is taken for eight.")],
    words: Annotated[str, typer.Option("--keywords", help="All keywords, with commas between them.")],
    bias: Annotated[bool, typer.Option(help="Tell the recogniser the keywords.")] = True,
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Spoken keywords, one in each recording: named right, from the list and from its first hypothesis."""
    from ..evaluation.commands import evaluate_keywords
    from ..opening import open_whisper
    from ..understanding.keywords import KEYWORD_HEARING, KeywordSpotter

    where = device_name(device)
    spotter = KeywordSpotter([word.strip() for word in words.split(",") if word.strip()])
    clips = read_clips(manifest, (field,), limit)

    def measure(advance: Progress) -> Measured:
        recognizer = open_whisper(device=where, progress=advance, options=KEYWORD_HEARING)
        prompt = spotter.prompt if bias else ""
        return evaluate_keywords(clips, recognizer, spotter, field, n_best=n_best, prompt=prompt, progress=advance)

    _report(measure, output, as_json)


@eval_app.command()
def intents(
    train: Annotated[Path, typer.Option("--train", help="Rows with text and intent.")],
    test: Annotated[Path, typer.Option("--test", help="Rows with intent and the field.")],
    field: Annotated[str, typer.Option(help="What of a test row is read: asr, text or hypotheses.")] = "text",
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Intents, learned from one file and predicted for another, beside logistic regression on sentence vectors."""
    from ..evaluation.intents import FIELDS, evaluate_intents
    from ..model.embedder import default_embedder
    from ..understanding.intents import IntentClassifier
    from ..understanding.readers import open_readers

    if field not in FIELDS:
        raise typer.BadParameter(f"--field is one of {', '.join(FIELDS)}, not {field!r}.")
    where = device_name(device)
    learned, asked = read_rows(train, ("intent",)), read_rows(test, ("intent", field), limit)

    def measure(advance: Progress) -> Measured:
        embedder = default_embedder(where, advance)
        readers = open_readers(embedder=embedder, device=where, progress=advance)
        classifier = IntentClassifier(readers, encoder=resolve(EMBEDDING, progress=advance), device=where)
        return evaluate_intents(classifier, learned, asked, field, baseline=embedder, progress=advance)

    _report(measure, output, as_json)


@eval_app.command()
def nbest(
    data: Annotated[Path, typer.Option("--data", help="Rows with hypotheses (texts, best first) and text.")],
    choose: Annotated[str, typer.Option("--choose", help="1best, rover, mbr, lm, corrector or auto.")] = "auto",
    adapter: Annotated[Path | None, typer.Option(help="Folder of the adapter, for --choose corrector.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Of `vivavoce train chooser`, for --choose lm.")] = None,
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Lists of hypotheses without their audio: word error rate of the first, the chosen and the best one."""
    from ..evaluation.nbest import evaluate_lists
    from ..opening import open_chooser

    where = device_name(device)
    rows = read_rows(data, ("hypotheses", "text"), limit)

    def measure(advance: Progress) -> Measured:
        chooser = open_chooser(choose, adapter=adapter, weights=weights, device=where, progress=advance)
        return evaluate_lists(rows, chooser, progress=advance)

    _report(measure, output, as_json)


@eval_app.command()
def wer(
    manifest: Manifest,
    noise: NoiseOption = None,
    snr: Snr = 10.0,
    engine: Engine = "ctranslate2",
    model: Model = None,
    language: Language = "en",
    choose: Annotated[str, typer.Option("--choose", help="1best, rover, mbr, lm or auto.")] = "1best",
    rival: Annotated[bool, typer.Option(help="Time faster-whisper on the same clips.")] = True,
    device: DeviceOption = "auto",
    n_best: NBest = 5,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Recordings with their text: error rates of lists, time, calibration, and faster-whisper in the same run."""
    from ..evaluation.speech import evaluate_wer, faster_whisper
    from ..opening import open_chooser, open_recognizer
    from ..weights.registry import ASR

    where = device_name(device)
    clips, mixed = read_clips(manifest, ("text",), limit), _noise(noise, snr)

    def measure(advance: Progress) -> Measured:
        recognizer = open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
        chooser = None if choose == "1best" else open_chooser(choose, device=where, progress=advance)
        other = faster_whisper(str(resolve(ASR, progress=advance)), spoken(language)) if rival else None
        return evaluate_wer(
            clips, recognizer, n_best=n_best, noise=mixed, chooser=chooser, rival=other, progress=advance
        )

    _report(measure, output, as_json)


@eval_app.command()
def speech_gate(
    manifest: Manifest,
    expect: Annotated[str, typer.Option(help="What the recordings hold: speech or none.")],
    engine: Engine = "ctranslate2",
    model: Model = None,
    language: Language = "en",
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Recordings of speech, or of none: how many are heard as speech, and why the others are refused."""
    from ..evaluation.speech import evaluate_speech_gate
    from ..opening import open_recognizer

    if expect not in ("speech", "none"):
        raise typer.BadParameter(f"--expect is speech or none, not {expect!r}.")
    where = device_name(device)
    clips = read_clips(manifest, (), limit)

    def measure(advance: Progress) -> Measured:
        recognizer = open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
        return evaluate_speech_gate(clips, recognizer, expect_speech=expect == "speech", progress=advance)

    _report(measure, output, as_json)


@eval_app.command()
def calibrate(
    manifest: Manifest,
    noise: NoiseOption = None,
    snr: Snr = 10.0,
    engine: Engine = "ctranslate2",
    model: Model = None,
    language: Language = "en",
    device: DeviceOption = "auto",
    n_best: NBest = 5,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Fit how sure a list may be of its first hypothesis, on recordings with their text."""
    from ..evaluation.speech import evaluate_calibration
    from ..opening import open_recognizer

    where = device_name(device)
    clips, mixed = read_clips(manifest, ("text",), limit), _noise(noise, snr)

    def measure(advance: Progress) -> Measured:
        recognizer = open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
        return evaluate_calibration(clips, recognizer, n_best=n_best, noise=mixed, progress=advance), []

    _report(measure, None, as_json)


@eval_app.command()
def streaming(
    manifest: Manifest,
    endpoint_delay: Annotated[
        float | None,
        typer.Option(min=0.01, help="Seconds of silence that end an utterance; adapts to the speaker by default."),
    ] = None,
    min_seconds: Annotated[float, typer.Option(help="Leave shorter recordings out.")] = 3.0,
    max_seconds: Annotated[float, typer.Option(help="Leave longer recordings out.")] = 8.0,
    engine: Engine = "ctranslate2",
    model: Model = None,
    language: Language = "en",
    device: DeviceOption = "auto",
    n_best: NBest = 5,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """How soon partials and the final list are there when recordings are played in real time."""
    from ..evaluation.streaming import evaluate_streaming
    from ..opening import open_recognizer

    where = device_name(device)
    clips = read_clips(manifest, ("text",))

    def measure(advance: Progress) -> Measured:
        recognizer = open_recognizer(engine, model, device=where, language=spoken(language), progress=advance)
        return evaluate_streaming(
            clips,
            recognizer,
            endpoint_delay=endpoint_delay,
            n_best=n_best,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            limit=limit,
            progress=advance,
        )

    _report(measure, output, as_json)


@eval_app.command()
def retrieval(
    corpus: Annotated[Path, typer.Option(help="Passages: {_id, text, title?, metadata?}, one a line.")],
    queries: Annotated[Path, typer.Option(help="Questions: {_id, text, …}, one a line.")],
    qrels: Annotated[Path, typer.Option(help="Table of query-id, corpus-id, score.")],
    field: Annotated[str, typer.Option(help="What is asked: text, asr, or a list such as hypotheses.")] = "text",
    channels: Annotated[str, typer.Option(help="Where to look, with commas between.")] = "dense,keyword,phonetic",
    fusion: Annotated[str, typer.Option(help="sum or rrf.")] = "sum",
    embedder: Annotated[str, typer.Option(help="llm, or a sentence-transformers model: name or folder.")] = "",
    adapter: Annotated[Path | None, typer.Option(help="With --embedder llm: an adapter of your own.")] = None,
    task: Annotated[str, typer.Option(help="With --embedder llm: knowledge, memory, tool or example.")] = "",
    rerank: Rerank = "",
    run_file: Annotated[Path | None, typer.Option("--run", help="Rankings in TREC's form, for BEIR's tools.")] = None,
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Search: is the passage that answers among the first 1, 5, 10?"""
    from vivavoce.retrieval import RerankedKnowledge

    from ..evaluation.beir import read_corpus, read_qrels, read_questions, write_run
    from ..evaluation.retrieval import DEPTH, evaluate_retrieval, index_whole, search_options
    from ..opening import open_embedder, open_reranker

    where = device_name(device)
    options = search_options(channels, fusion)
    documents, asked, relevant = read_corpus(corpus), read_questions(queries, field, limit), read_qrels(qrels)

    def measure(advance: Progress) -> Measured:
        vectors = open_embedder(embedder, adapter, task=task, device=where, progress=advance)
        knowledge = index_whole(documents, vectors, options, advance)
        if not rerank:
            return evaluate_retrieval(knowledge, asked, relevant, advance)
        reranker = open_reranker(rerank, device=where, progress=advance)
        ordered = RerankedKnowledge(knowledge, reranker, depth=DEPTH)
        return evaluate_retrieval(ordered, asked, relevant, advance, depth=DEPTH)

    with progress() as advance:
        summary, items = in_thread(lambda: measure(advance))
    if run_file is not None:
        write_run(run_file, {item["id"]: item["found"] for item in items}, embedder or "default")
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)


@eval_app.command("dialogue-retrieval")
def dialogue_retrieval(
    data: Annotated[Path, typer.Option("--data", help="Rows of history, turn, doc_ids, needs_retrieval.")],
    corpus: Annotated[Path, typer.Option(help="Passages: {_id, text, title?, metadata?}, one a line.")],
    key: Annotated[str | None, typer.Option(help="Key of the metadata that says what a passage is about.")] = None,
    channels: Annotated[str, typer.Option(help="Where to look, with commas between.")] = "dense,keyword,phonetic",
    embedder: Annotated[str, typer.Option(help="llm, or a sentence-transformers model: name or folder.")] = "",
    adapter: Annotated[Path | None, typer.Option(help="With --embedder llm: an adapter of your own.")] = None,
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Search inside dialogues: only turns that need retrieval count."""
    from vivavoce.retrieval import DialogueSearch
    from vivavoce.speech.lists.phonetics import sound_string

    from ..evaluation.beir import read_corpus
    from ..evaluation.retrieval import evaluate_dialogues, index_whole, search_options
    from ..opening import open_embedder

    where = device_name(device)
    options = search_options(channels, "sum")
    rows, documents = read_rows(data, ("history", "turn", "needs_retrieval"), limit), read_corpus(corpus)

    def measure(advance: Progress) -> Measured:
        vectors = open_embedder(embedder, adapter, device=where, progress=advance)
        knowledge = index_whole(documents, vectors, options, advance)
        return evaluate_dialogues(DialogueSearch(knowledge, key=key, sound=sound_string), rows, advance)

    _report(measure, output, as_json)
