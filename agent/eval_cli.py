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
    engine: Engine = "ctranslate2",
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Spoken commands: intent and all slots right, from the list and from its first hypothesis."""
    from .engines import open_recognizer
    from .eval_commands import evaluate_commands, understood_examples
    from .evaluation import Noise, read_clips, write_rows
    from .grammar import Grammar
    from .slots import SlotFiller

    device = device_name(device)
    filler = SlotFiller(Grammar.load(grammar))
    clips = read_clips(manifest, ("intent", "slots"), limit)
    mixed = None if noise is None else Noise.read(noise, snr)
    with progress() as advance:
        recognizer = in_thread(lambda: open_recognizer(engine, device=device, progress=advance))
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
    engine: Engine = "ctranslate2",
    device: DeviceOption = "auto",
    n_best: NBest = 10,
    limit: Limit = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Spoken keywords, one in each recording: named right, from the list and from its first hypothesis."""
    from .engines import open_recognizer
    from .eval_commands import evaluate_keywords
    from .evaluation import read_clips, write_rows
    from .keywords import KeywordSpotter

    device = device_name(device)
    spotter = KeywordSpotter([word.strip() for word in words.split(",") if word.strip()])
    clips = read_clips(manifest, (field,), limit)
    with progress() as advance:
        recognizer = in_thread(lambda: open_recognizer(engine, device=device, progress=advance))
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
