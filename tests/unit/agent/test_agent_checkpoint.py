"""A training run that was broken off: the same guarantees for every trainer."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_agent_intents import LABELS, TUNING
from test_agent_intents import TEXTS as REQUESTS
from test_agent_intents import encoder as encoder
from test_agent_training_chooser import KnowsBand
from tiny_embedder import PAIRS, SMALL, TEXTS, tiny_llama
from tiny_embedder import tokenizer as tokenizer

from vivavoce.agent.checkpoint import Checkpoint, Run
from vivavoce.agent.errors import ConfigError
from vivavoce.agent.training.chooser import train_chooser
from vivavoce.agent.training.contrastive import train_embedder
from vivavoce.agent.training.corrector import TrainingOptions, train_corrector
from vivavoce.agent.understanding.intents import IntentClassifier, IntentOptions
from vivavoce.agent.understanding.readers import EmbeddingReader
from vivavoce.retrieval.testing import HashEmbedder

pytestmark = [
    pytest.mark.usefixtures("one_cpu"),
    # PEFT asks transformers by a name of yesterday.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

Progress = Callable[[int, int, str], None]


class BrokenOffError(Exception):
    """Ends a run in its middle."""


@dataclass(frozen=True)
class Bench:
    """What the trainers train: the models, and folders of the same architecture with other weights."""

    tokenizer: Any
    llm: Path
    other_llm: Path
    encoder: Path
    other_encoder: Path
    rows: Path
    other_rows: Path


def train_tiny_embedder(bench: Bench, out: Path, changed: str, progress: Progress | None) -> None:
    options = replace(SMALL, text_steps=4, pair_steps=10, save_every=5, rank=8 if changed == "settings" else 16)
    pairs = [*PAIRS[:-1], replace(PAIRS[-1], passage="oat milk")] if changed == "data" else PAIRS
    train_embedder(
        tiny_llama(1 if changed == "model" else 0),
        bench.tokenizer,
        pairs,
        TEXTS,
        out,
        teacher=HashEmbedder(16),
        options=options,
        seed=1 if changed == "seed" else 0,
        progress=progress,
    )


def train_tiny_corrector(bench: Bench, out: Path, changed: str, progress: Progress | None) -> None:
    rate = 1e-2 if changed == "settings" else 2e-2
    options = TrainingOptions(rank=2, layers=1, learning_rate=rate, tokens=40, save_every=5)
    train_corrector(
        [bench.other_rows if changed == "data" else bench.rows],
        out,
        model=str(bench.other_llm if changed == "model" else bench.llm),
        options=options,
        seed=1 if changed == "seed" else 0,
        device="cpu",
        progress=progress,
    )


def train_tiny_chooser(bench: Bench, out: Path, changed: str, progress: Progress | None) -> None:
    scorer = KnowsBand()
    scorer.fingerprint = "another" if changed == "model" else "band"
    rows = bench.other_rows if changed == "data" else bench.rows
    shrinkage = 1e-2 if changed == "settings" else 1e-3
    train_chooser([rows], out / "weights.json", scorer, shrinkage=shrinkage, progress=progress)


def train_tiny_intents(bench: Bench, out: Path, changed: str, progress: Progress | None) -> None:
    tuning = replace(TUNING, batch=6 if changed == "settings" else 4, seed=1 if changed == "seed" else 0)
    classifier = IntentClassifier(
        [EmbeddingReader(HashEmbedder(512))],
        encoder=bench.other_encoder if changed == "model" else bench.encoder,
        options=IntentOptions(tuned_from=12, tuning=tuning),
        device="cpu",
    )
    requests = ["wake me at noon", *REQUESTS[1:]] if changed == "data" else REQUESTS
    classifier.fit(requests, LABELS, resume=out / "checkpoint.pt", progress=progress)
    classifier.save(out)


@dataclass(frozen=True)
class Trainer:
    """A trainer, and where its run is broken off.

    Attributes:
        train: Called with models, folder, what is changed, and progress.
        checkpoint: Name of the file.
        weights: Name of the file of what was learned.
        label: How the progress of the steps that are counted is labelled.
        breaks: Steps that are done when the run is broken off.
        saved: Steps that the checkpoint holds then.
    """

    train: Callable[[Bench, Path, str, Progress | None], None]
    checkpoint: str
    weights: str
    label: str
    breaks: int
    saved: int

    def learned(self, folder: Path) -> dict[str, Any]:
        path = folder / self.weights
        return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())["weights"]

    def break_off(self, bench: Bench, out: Path) -> None:
        def stop(done: int, total: int, label: str) -> None:
            if self.label in label and done == self.breaks:
                raise BrokenOffError

        with pytest.raises(BrokenOffError):
            self.train(bench, out, "", stop)


TRAINERS = {
    "embedder": Trainer(train_tiny_embedder, "checkpoint.pt", "adapter.safetensors", "loss", 12, 10),
    "corrector": Trainer(train_tiny_corrector, "checkpoint.pt", "adapter_model.safetensors", "loss", 13, 10),
    "chooser": Trainer(train_tiny_chooser, "weights.json.checkpoint", "weights.json", "lists", 30, 25),
    # The first member is ready, the second has one of its three epochs behind it.
    "intents": Trainer(train_tiny_intents, "checkpoint.pt", "tuned.safetensors", "fine-tuning", 4, 4),
}
CHANGES = {
    "data": "with other data:",
    "settings": "with other settings:",
    "model": "with another base model:",
    "seed": "with another seed:",
}
each_trainer = pytest.mark.parametrize("name", TRAINERS)


def with_other_weights(folder: Path) -> Path:
    other = shutil.copytree(folder, folder.with_name(f"{folder.name}-other"))
    weights = load_file(other / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    return other


def write_rows(path: Path, word: str) -> Path:
    rows = [
        {"hypotheses": [f"the bant {word} song{n}", f"the band {word} song{n}"], "text": f"the band {word} song{n}"}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def bench(tokenizer, tiny_llm, encoder, tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    llm = shutil.copytree(tiny_llm, folder / "llm")
    config = json.loads((llm / "config.json").read_text())
    # What is dropped out is drawn from torch's own generator.
    (llm / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    own_encoder = shutil.copytree(encoder, folder / "encoder")
    rows, other_rows = (write_rows(folder / name, word) for name, word in (("a.jsonl", "played"), ("b.jsonl", "plays")))
    return Bench(
        tokenizer, llm, with_other_weights(llm), own_encoder, with_other_weights(own_encoder), rows, other_rows
    )


@pytest.fixture(scope="module")
def broken_off(bench, tmp_path_factory) -> Callable[[str], Path]:
    """For each trainer the folder of a run that was broken off, made once."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            TRAINERS[name].break_off(bench, folders[name])
        return folders[name]

    return folder


@each_trainer
def test_a_run_that_broke_off_ends_where_one_in_a_piece_does(name, bench, broken_off, tmp_path):
    trainer = TRAINERS[name]
    folder = shutil.copytree(broken_off(name), tmp_path / "resumed")
    assert [path.name for path in folder.iterdir()] == [trainer.checkpoint]
    steps: list[tuple[int, int]] = []

    def count(done: int, total: int, label: str) -> None:
        if trainer.label in label:
            steps.append((done, total))

    torch.manual_seed(7)  # whatever has been drawn in this process
    trainer.train(bench, folder, "", count)
    total = steps[0][1]
    assert steps == [(done, total) for done in range(trainer.saved + 1, total + 1)] and total > trainer.breaks
    assert not [path for path in folder.iterdir() if "checkpoint" in path.name]
    (tmp_path / "whole").mkdir()
    trainer.train(bench, tmp_path / "whole", "", None)
    whole, resumed = trainer.learned(tmp_path / "whole"), trainer.learned(folder)
    assert whole.keys() == resumed.keys()
    assert all(np.allclose(value, resumed[key], atol=1e-5) for key, value in whole.items())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (name, changed)
        for name in TRAINERS
        for changed in CHANGES
        if (name, changed) != ("chooser", "seed")  # which draws nothing
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_as_it_is(name, changed, bench, broken_off, tmp_path):
    trainer = TRAINERS[name]
    folder = shutil.copytree(broken_off(name), tmp_path / "refused")
    before = (folder / trainer.checkpoint).read_bytes()
    with pytest.raises(ConfigError, match=f"{trainer.checkpoint} .*{CHANGES[changed]} delete it .* another --out"):
        trainer.train(bench, folder, changed, None)
    assert [path.name for path in folder.iterdir()] == [trainer.checkpoint]
    assert (folder / trainer.checkpoint).read_bytes() == before


@each_trainer
def test_a_damaged_checkpoint_is_refused(name, bench, broken_off, tmp_path):
    trainer = TRAINERS[name]
    content = (broken_off(name) / trainer.checkpoint).read_bytes()
    (tmp_path / trainer.checkpoint).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"damaged .*delete it"):
        trainer.train(bench, tmp_path, "", None)


RUN = Run.of([{"text": "play some jazz"}], {"rank": 8}, "model", 0)


class Unfinished:
    """Interrupts whoever writes it."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise KeyboardInterrupt


class Harmful:
    """Makes a folder when it is unpickled by a reader that runs what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def test_content_decides_which_run_it_is_and_the_order_of_settings_does_not():
    pair = PAIRS[0]
    first = Run.of([pair, "text"], {"a": 1, "b": {"c": pair}}, "model", 0)
    assert first == Run.of(iter([replace(pair), "text"]), {"b": {"c": pair}, "a": 1}, "model", 0)
    other = Run.of(["text", pair], {"a": 2, "b": {"c": pair}}, "another", 1)
    assert first.differences(first) == ""
    assert first.differences(other) == "other data and other settings and another base model and another seed"
    with pytest.raises(TypeError, match="no JSON form"):
        Run.of([Path("data.jsonl")], {}, "model")


def test_a_state_comes_back_whole(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoint.pt", RUN)
    assert checkpoint.load() is None
    checkpoint.save({"weights": torch.arange(3), "losses": [0.5], "label": None})
    state = Checkpoint(checkpoint.path, RUN).load()
    assert state is not None and state["weights"].tolist() == [0, 1, 2]
    assert (state["losses"], state["label"]) == ([0.5], None)
    checkpoint.remove()
    checkpoint.remove()
    assert not [*checkpoint.path.parent.iterdir()]


def test_a_kill_while_writing_leaves_the_state_before(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", RUN)
    checkpoint.save({"step": 1})
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"step": 2, "more": Unfinished()})
    assert Checkpoint(checkpoint.path, RUN).load() == {"step": 1}
    checkpoint.save({"step": 3})
    assert Checkpoint(checkpoint.path, RUN).load() == {"step": 3}
    checkpoint.remove()
    assert not [*tmp_path.iterdir()]


def test_a_file_that_appears_while_a_run_has_not_saved_yet_is_not_written_over(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, RUN).save({"step": 1})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another seed"):
        Checkpoint(path, replace(RUN, seed=1)).save({"step": 9})
    assert path.read_bytes() == before


def test_a_flipped_bit_is_damage(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, RUN).save({"weights": torch.full((1000,), 0.25)})
    content = bytearray(path.read_bytes())
    content[content.index(np.full(100, 0.25, np.float32).tobytes()) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        Checkpoint(path, RUN).load()


@pytest.mark.parametrize("content", [b"", b"broken", pickle.dumps({"format": 1})])
def test_what_no_run_has_written_is_damaged(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        Checkpoint(path, RUN).load()


def test_objects_in_a_file_are_not_brought_to_life(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "state": Harmful(tmp_path / "harm")}, path)
    with pytest.raises(ConfigError, match="damaged"):
        Checkpoint(path, RUN).load()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{"run": "0123456789abcdef", "losses": []}, [1]])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"no checkpoint of this version .*delete it"):
        Checkpoint(tmp_path / "checkpoint.pt", RUN).load()


def test_where_nothing_can_be_written_the_fix_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="another --out"):
        Checkpoint(tmp_path / "file" / "checkpoint.pt", RUN).save({})
