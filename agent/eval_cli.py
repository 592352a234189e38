"""``vivavoce eval …``: measure a part on data of one's own; paths in, one summary object out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .concurrency import in_thread
from .console import DeviceOption, Json, NBest, device_name, progress, tell

eval_app = typer.Typer(help="Measure a part on data of your own.", no_args_is_help=True)

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="The first N items only.")]
Out = Annotated[Path | None, typer.Option("--out", help="One JSON line per item.")]
Manifest = Annotated[Path, typer.Option("--manifest", help="NeMo manifest: one JSON object per line.")]
NoiseOption = Annotated[Path | None, typer.Option("--noise", help="A recording of noise, or a folder of them.")]
Snr = Annotated[float, typer.Option("--snr", help="dB by which speech is louder than --noise.")]
Engine = Annotated[str, typer.Option("--engine", help="ctranslate2, openai, transformers, ctc, or module:Class.")]


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
    from vivavoce.speech import WhisperOptions

    from .eval_commands import evaluate_commands, open_whisper, understood_examples
    from .evaluation import Noise, read_clips, write_rows
    from .grammar import Grammar
    from .slots import SlotFiller

    device = device_name(device)
    filler = SlotFiller(Grammar.load(grammar))
    clips = read_clips(manifest, ("intent", "slots"), limit)
    mixed = None if noise is None else Noise.read(noise, snr)
    with progress() as advance:
        recognizer = in_thread(lambda: open_whisper(WhisperOptions(language="en"), device, advance))
        summary, items = in_thread(
            lambda: evaluate_commands(
                clips,
                recognizer,
                filler,
                n_best=n_best,
                noise=mixed,
                prompt=filler.prompt if bias else "",
                progress=advance,
            )
        )
    if examples is not None:
        summary["examples_understood"] = understood_examples(examples, filler)
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)


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
    from .eval_commands import evaluate_keywords, open_whisper
    from .evaluation import read_clips, write_rows
    from .keywords import KEYWORD_HEARING, KeywordSpotter

    device = device_name(device)
    spotter = KeywordSpotter([word.strip() for word in words.split(",") if word.strip()])
    clips = read_clips(manifest, (field,), limit)
    with progress() as advance:
        recognizer = in_thread(lambda: open_whisper(KEYWORD_HEARING, device, advance))
        summary, items = in_thread(
            lambda: evaluate_keywords(
                clips,
                recognizer,
                spotter,
                field,
                n_best=n_best,
                prompt=spotter.prompt if bias else "",
                progress=advance,
            )
        )
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)


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
    from .eval_intents import FIELDS, evaluate_intents
    from .evaluation import read_rows, write_rows
    from .intents import IntentClassifier, open_embedder, open_readers

    if field not in FIELDS:
        raise typer.BadParameter(f"--field is one of {', '.join(FIELDS)}, not {field!r}.")
    where = device_name(device)
    learned, asked = read_rows(train, ("intent",)), read_rows(test, ("intent", field), limit)
    with progress() as advance:
        embedder = in_thread(lambda: open_embedder(device=where, progress=advance))
        readers = in_thread(lambda: open_readers(embedder=embedder, device=where, progress=advance))
        summary, items = in_thread(
            lambda: evaluate_intents(
                IntentClassifier(readers), learned, asked, field, baseline=embedder, progress=advance
            )
        )
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)


@eval_app.command()
def nbest(
    data: Annotated[Path, typer.Option("--data", help="Rows with hypotheses (texts, best first) and text.")],
    choose: Annotated[str, typer.Option("--choose", help="1best, rover, mbr, lm, corrector or auto.")] = "auto",
    adapter: Annotated[Path | None, typer.Option(help="Folder of the adapter, for --choose corrector.")] = None,
    device: DeviceOption = "auto",
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Lists of hypotheses without their audio: word error rate of the first, the chosen and the best one."""
    from .eval_nbest import evaluate_lists
    from .evaluation import read_rows, write_rows
    from .scoring import open_chooser

    where = device_name(device)
    rows = read_rows(data, ("hypotheses", "text"), limit)
    with progress() as advance:
        chooser = in_thread(lambda: open_chooser(choose, adapter=adapter, device=where, progress=advance))
        summary, items = in_thread(lambda: evaluate_lists(rows, chooser, progress=advance))
    if output is not None:
        write_rows(output, items)
    tell(summary, as_json)
