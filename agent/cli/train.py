"""``vivavoce train …``: train an adapter or a head on data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from ..concurrency import in_thread
from ..weights.registry import LLM
from .console import progress, tell
from .options import DeviceOption, Json, grouped

train_app = typer.Typer(help="Train a part on data of your own.", no_args_is_help=True)


@train_app.command()
def intents(
    data: Annotated[Path, typer.Option("--data", help="Rows with intent, and text, asr or hypotheses.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for what is learned; a run that broke off goes on there.")],
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """A classifier of intents: `IntentClassifier.load` opens it. From 1000 rows on, it fine-tunes an encoder."""
    from ..evaluation.intents import training_items
    from ..evaluation.rows import read_rows
    from ..understanding.intents import IntentClassifier
    from ..understanding.readers import open_readers
    from ..weights import EMBEDDING, resolve

    checkpoint = out / "checkpoint.pt"
    items, labels = training_items(read_rows(data, ("intent",)))
    with progress() as advance:
        readers = in_thread(lambda: open_readers(device=device, progress=advance))
        classifier = IntentClassifier(readers, encoder=resolve(EMBEDDING, progress=advance), device=device)
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
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    as_json: Json = False,
) -> None:
    """How what is said to a machine is worded, and what is said to people: `Wording.load` opens it."""
    from ..training.wording import train_wording

    tell(in_thread(lambda: train_wording(directed, other, out, seed=seed)), as_json)


@train_app.command()
def corrector(
    data: Annotated[list[Path], typer.Option("--data", help="Rows with hypotheses (texts, best first) and text.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the adapter; a run that broke off goes on there.")],
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many lists of each file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order and of the matrices.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """An adapter that ranks what was said above what it sounds like: `--choose corrector --adapter OUT` uses it."""
    from ..training.corrector import train_corrector

    with progress() as advance:
        card = in_thread(lambda: train_corrector(data, out, limit=limit, seed=seed, device=device, progress=advance))
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
    """How much each evidence weighs when a list is rescored: `--choose lm --weights OUT` uses it."""
    from .. import weights
    from ..model.local import TransformersChatModel
    from ..model.scorer import LanguageScorer
    from ..training.chooser import train_chooser

    with progress() as advance:

        def train() -> dict[str, Any]:
            scorer = LanguageScorer(TransformersChatModel(weights.resolve(LLM, progress=advance), device=device))
            return train_chooser(data, out, scorer, shrinkage=shrinkage, limit=limit, progress=advance)

        card = in_thread(train)
    tell(card, as_json)


@dataclass(frozen=True)
class EmbedderData:
    """What an embedding adapter is trained on."""

    panel: ClassVar[str] = "Data"

    data: Annotated[
        list[Path],
        typer.Option(
            "--data", help="BEIR folder, or rows with question and passage (or paragraphs); may be given again."
        ),
    ]
    texts: Annotated[list[Path] | None, typer.Option("--texts", help="Rows with text, question or turn.")] = None
    without: Annotated[
        list[Path] | None, typer.Option("--without", help="A corpus whose passages are kept for measuring.")
    ] = None
    requests: Annotated[
        list[Path] | None, typer.Option("--requests", help="Rows with text and intent: for tools, and for examples.")
    ] = None
    tasks: Annotated[
        bool, typer.Option(help="Instructions for knowledge, memory, tools and examples before what is asked.")
    ] = True


@dataclass(frozen=True)
class EmbedderModel:
    """Which language model learns to embed, and how it is read."""

    panel: ClassVar[str] = "Model"

    model: Annotated[str | None, typer.Option(help="The language model: a name, or a folder.")] = None
    teacher: Annotated[str, typer.Option(help="Embedding model that is followed: a name, a folder, or none.")] = ""
    layers: Annotated[int, typer.Option(min=1, help="How many of the model's first layers are read.")] = 4
    attention: Annotated[
        Literal["causal", "bidirectional"], typer.Option(help="Whether a word sees those after it.")
    ] = "bidirectional"


@dataclass(frozen=True)
class EmbedderSteps:
    """How long, and with how much at once, an embedding adapter is trained."""

    panel: ClassVar[str] = "Steps"

    texts_a_step: Annotated[int, typer.Option(min=1, help="Texts in a step; more suit a GPU.")] = 64
    pairs_a_step: Annotated[int, typer.Option(min=2, help="Pairs in a step; more suit a GPU.")] = 24
    generation: Annotated[
        float, typer.Option(min=0.0, help="Weight of how likely a passage makes the question (GRL): wants a GPU.")
    ] = 0.0
    word_steps: Annotated[int, typer.Option(min=0, help="Steps that fit the lexical part.")] = 100
    text_steps: Annotated[int, typer.Option(min=0, help="Steps that only follow the teacher.")] = 400
    pair_steps: Annotated[int, typer.Option(min=0, help="Steps that tell passages apart.")] = 400


@train_app.command()
@grouped
def embedder(
    given: EmbedderData,
    out: Annotated[Path, typer.Option("--out", help="Folder for the adapter; a run that broke off goes on there.")],
    *,
    learner: EmbedderModel,
    steps: EmbedderSteps,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """An adapter with which the language model embeds: `LLMEmbedder(model, tokenizer, OUT)` uses it."""
    from vivavoce.retrieval import SentenceTransformerEmbedder

    from .. import weights
    from ..model.local import LocalModelOptions, TransformersChatModel
    from ..training.embedder import gather, train
    from ..training.plan import TASK_INSTRUCTIONS, EmbedderTrainingOptions
    from ..weights.registry import EMBEDDING

    if learner.teacher == "none" and steps.text_steps not in (0, EmbedderSteps.text_steps):
        raise typer.BadParameter("--text-steps follow a teacher, and there is none: leave one of both out.")
    data, texts, requests = given.data, given.texts or [], given.requests or []
    with progress() as advance:

        def work() -> dict[str, Any]:
            gathered = gather(data, texts, given.without or (), seed, requests=requests, memories=given.tasks)
            folder = weights.resolve(learner.model or LLM, progress=advance)
            plain = LocalModelOptions(dtype="float32", decode="full")
            chat = TransformersChatModel(folder, options=plain, device=device)
            followed = None
            if learner.teacher != "none":
                followed = SentenceTransformerEmbedder(
                    weights.resolve(learner.teacher or EMBEDDING, progress=advance), device=device
                )
            options = EmbedderTrainingOptions(
                layers=learner.layers,
                attention=learner.attention,
                dim=followed.dim if followed else EmbedderTrainingOptions().dim,
                tasks=TASK_INSTRUCTIONS if given.tasks else {},
                texts=steps.texts_a_step,
                pairs=steps.pairs_a_step,
                generation=steps.generation,
                word_steps=steps.word_steps,
                text_steps=steps.text_steps,
                pair_steps=steps.pair_steps,
            )
            return train(
                chat.model,
                chat.tokenizer,
                followed,
                gathered,
                out,
                options=options,
                seed=seed,
                files=[*data, *texts, *requests],
                progress=advance,
            )

        card = in_thread(work)
    tell(card, as_json)


@dataclass(frozen=True)
class ReadOutData:
    """Turns that say whether they needed a look-up."""

    panel: ClassVar[str] = "Data"

    data: Annotated[
        list[Path], typer.Option(help="Turns {history, turn, needs_retrieval}; JSON lines, gzipped or not.")
    ]
    questions: Annotated[list[Path] | None, typer.Option(help="Questions {text} that all need documents.")] = None
    requests: Annotated[list[Path] | None, typer.Option(help="Requests {text, intent?} that need none.")] = None
    limit: Annotated[int | None, typer.Option(min=50, help="At most N turns of each file.")] = None


@train_app.command("read-out")
@grouped
def read_out(
    given: ReadOutData,
    out: Annotated[Path, typer.Option("--out", help="Where the read-out goes (JSON).")],
    *,
    model: Annotated[str, typer.Option(help="The language model: a name of `models list`, or a folder.")] = LLM,
    layer: Annotated[int | None, typer.Option(help="Which hidden state; two thirds of the depth by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of shuffles, personas and styles.")] = 0,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """How P(<RET>) is read from a model: trained and calibrated on turns that say whether they needed a look-up."""
    from ..training.readout import train_read_out

    with progress() as advance:
        card = train_read_out(
            given.data,
            out,
            questions=given.questions or [],
            requests=given.requests or [],
            model=model,
            layer=layer,
            limit=given.limit,
            seed=seed,
            device=device,
            progress=advance,
        )
    tell(card, as_json)
