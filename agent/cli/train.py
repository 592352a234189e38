"""``vivavoce train …``: train an adapter or a head on data of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..concurrency import in_thread
from .console import DeviceOption, Json, device_name, progress, tell

train_app = typer.Typer(help="Train an adapter or a head on data of your own.", no_args_is_help=True)


@train_app.command()
def intents(
    data: Annotated[Path, typer.Option("--data", help="Rows with intent, and text, asr or hypotheses.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for what is learned; a run that broke off goes on there.")],
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """What names intents: `IntentClassifier.load` opens it. From 1000 rows on, an encoder is fine-tuned: minutes."""
    from ..evaluation.intents import training_items
    from ..evaluation.rows import read_rows
    from ..understanding.intents import IntentClassifier
    from ..understanding.readers import open_readers
    from ..weights import EMBEDDING, resolve

    where, checkpoint = device_name(device), out / "checkpoint.pt"
    items, labels = training_items(read_rows(data, ("intent",)))
    with progress() as advance:
        readers = in_thread(lambda: open_readers(device=where, progress=advance))
        classifier = IntentClassifier(readers, encoder=resolve(EMBEDDING, progress=advance), device=where)
        in_thread(lambda: classifier.fit(items, labels, resume=checkpoint, progress=advance))
    classifier.save(out)
    tell(
        {
            "n": len(items),
            "labels": len(classifier.labels),
            "tuned": classifier.mixture is not None,
            "accuracy_left_out": round(classifier.left_out, 4),
            "out": str(out),
        },
        as_json,
    )


@train_app.command()
def directed(
    directed: Annotated[list[Path], typer.Option("--directed", help="Rows with text that is said to a machine.")],
    other: Annotated[list[Path], typer.Option("--other", help="Rows with text that is not.")],
    out: Annotated[Path, typer.Option("--out", help="Where the wording goes.")],
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    as_json: Json = False,
) -> None:
    """The wording of what is said to a machine: `Wording.load` opens it."""
    from ..training.wording import train_wording

    tell(in_thread(lambda: train_wording(directed, other, out, seed=seed)), as_json)


@train_app.command()
def corrector(
    data: Annotated[list[Path], typer.Option("--data", help="Rows with hypotheses (texts, best first) and text.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the adapter; a run that broke off goes on there.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many lists of each file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order and of the matrices.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """An adapter that ranks what was said above what it sounds like: `--choose corrector --adapter OUT` uses it."""
    from ..training.corrector import train_corrector

    where = device_name(device)
    with progress() as advance:
        card = in_thread(lambda: train_corrector(data, out, limit=limit, seed=seed, device=where, progress=advance))
    tell(card, as_json)


@train_app.command()
def chooser(
    data: Annotated[
        list[Path], typer.Option("--data", help="Rows with hypotheses (best first), text, perhaps scores.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file for the weights; a run that broke off goes on.")],
    shrinkage: Annotated[float, typer.Option(min=0.0, help="How much weights are held near those set by hand.")] = 1e-3,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many lists of each file.")] = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """How much counts when lists are rescored: `--choose lm --weights OUT` uses it."""
    from .. import weights
    from ..model.local import TransformersChatModel
    from ..model.scorer import LanguageScorer
    from ..training.chooser import train_chooser
    from ..weights.registry import LLM

    where = device_name(device)
    with progress() as advance:

        def train() -> dict[str, Any]:
            scorer = LanguageScorer(TransformersChatModel(weights.resolve(LLM, progress=advance), device=where))
            return train_chooser(data, out, scorer, shrinkage=shrinkage, limit=limit, progress=advance)

        card = in_thread(train)
    tell(card, as_json)


@train_app.command()
def embedder(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="BEIR folder, or rows with question and passage (or paragraphs); may come again."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the adapter; a run that broke off goes on there.")],
    texts: Annotated[list[Path] | None, typer.Option("--texts", help="Rows with text, question or turn.")] = None,
    without: Annotated[
        list[Path] | None, typer.Option("--without", help="A corpus whose passages are kept for measuring.")
    ] = None,
    requests: Annotated[
        list[Path] | None, typer.Option("--requests", help="Rows with text and intent: for tools, and for examples.")
    ] = None,
    tasks: Annotated[
        bool, typer.Option(help="Instructions for knowledge, memory, tools and examples before what is asked.")
    ] = True,
    model: Annotated[str | None, typer.Option(help="The language model: a name, or a folder.")] = None,
    teacher: Annotated[str, typer.Option(help="Embedding model that is followed: a name, a folder, or none.")] = "",
    layers: Annotated[int, typer.Option(min=1, help="How many of the model's first layers are read.")] = 4,
    attention: Annotated[str, typer.Option(help="causal or bidirectional.")] = "bidirectional",
    texts_a_step: Annotated[int, typer.Option(min=1, help="Texts in a step; more suit a GPU.")] = 64,
    pairs_a_step: Annotated[int, typer.Option(min=2, help="Pairs in a step; more suit a GPU.")] = 24,
    generation: Annotated[
        float, typer.Option(min=0.0, help="Weight of how likely a passage makes the question (GRL): wants a GPU.")
    ] = 0.0,
    word_steps: Annotated[int, typer.Option(min=0, help="Steps that fit the lexical part.")] = 100,
    text_steps: Annotated[int, typer.Option(min=0, help="Steps that only follow the teacher.")] = 400,
    pair_steps: Annotated[int, typer.Option(min=0, help="Steps that tell passages apart.")] = 400,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """An adapter with which the language model embeds: `LLMEmbedder(model, tokenizer, OUT)` uses it."""
    from vivavoce.retrieval import SentenceTransformerEmbedder

    from .. import weights
    from ..model.local import LocalModelOptions, TransformersChatModel
    from ..training.embedder import gather, train
    from ..training.plan import TASK_INSTRUCTIONS, EmbedderTrainingOptions
    from ..weights.registry import EMBEDDING, LLM

    if attention not in ("causal", "bidirectional"):
        raise typer.BadParameter(f"--attention is causal or bidirectional, not {attention!r}.")
    where = device_name(device)
    with progress() as advance:

        def work() -> dict[str, Any]:
            gathered = gather(data, texts or (), without or (), seed, requests=requests or (), memories=tasks)
            folder = weights.resolve(model or LLM, progress=advance)
            plain = LocalModelOptions(dtype="float32", decode="full")
            chat = TransformersChatModel(folder, options=plain, device=where)
            followed = None
            if teacher != "none":
                followed = SentenceTransformerEmbedder(
                    weights.resolve(teacher or EMBEDDING, progress=advance), device=where
                )
            options = EmbedderTrainingOptions(
                layers=layers,
                attention="causal" if attention == "causal" else "bidirectional",
                dim=followed.dim if followed else EmbedderTrainingOptions().dim,
                tasks=TASK_INSTRUCTIONS if tasks else {},
                texts=texts_a_step,
                pairs=pairs_a_step,
                generation=generation,
                word_steps=word_steps,
                text_steps=text_steps,
                pair_steps=pair_steps,
            )
            files = [*data, *(texts or ()), *(requests or ())]
            return train(
                chat.model,
                chat.tokenizer,
                followed,
                gathered,
                out,
                options=options,
                seed=seed,
                files=files,
                progress=advance,
            )

        card = in_thread(work)
    tell(card, as_json)
