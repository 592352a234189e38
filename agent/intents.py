"""What somebody wants: a label for a text, or for everything that a recogniser may have heard.

classifier = IntentClassifier([StateReader(chat)]).fit(["book a table", "we need a taxi"], ["table", "taxi"])
classifier.predict(transcript).intent
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval import Embedder
from vivavoce.speech import Transcript

from . import models
from .concurrency import OnModelThread, on_model_thread
from .errors import ConfigError
from .intent_tuning import TunedEncoders, TuningOptions
from .llm import Device, TransformersChatModel

Heard: TypeAlias = str | Transcript | Sequence[str] | Sequence[tuple[str, float]]
"""A text, a transcript, hypotheses best first (each then counts half of the one before), or hypotheses with weights."""

_STAGE = "intents"
_SHRINKAGES = tuple(float(x) for x in np.geomspace(0.003, 1.0, 12))
"""Ridge penalties that are tried; a text's kernel with itself is 1."""
_SHARPNESSES = tuple(float(x) for x in np.geomspace(0.5, 16.0, 31))
_LEAST = 1e-9
"""Added to a probability before its logarithm is taken."""
_WIDTH = 1.0
"""Of the Gaussian kernel, for rows of length 1."""
_CHUNK = 256
"""Texts that are read between two reports of progress."""


@runtime_checkable
class TextReader(Protocol):
    """Turns texts into features; readers count alike, and so do the blocks of one reader, however long."""

    @property
    def name(self) -> str:
        """Says which model reads, and how: a trained head fits readers of the same names only."""
        ...

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """Blocks of features, each float32 of shape (len(texts), its width)."""
        ...


class EmbeddingReader:
    """An embedder as a reader of one block."""

    def __init__(self, embedder: Embedder) -> None:
        """Read with an embedder, for example the one that searches documents."""
        self._embedder = embedder
        self.name = embedder.name

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See ``TextReader.read``."""
        return (self._embedder.embed(texts, kind="passage"),)


@dataclass(frozen=True, slots=True)
class StateOptions:
    """How a language model reads a sentence, and which of its states are taken.

    The sentence stands in the prompt twice, because a causal model has seen the end of it only when it reads it again
    (echo embeddings, Springer et al. 2024, https://arxiv.org/abs/2402.15449). A request for one word follows, before
    which the last state sums the sentence up (PromptEOL, Jiang et al. 2023, https://arxiv.org/abs/2307.16645).

    Attributes:
        opening: What stands before the sentence.
        again: What stands between its two copies.
        question: What stands after the second.
        mean_layers: Layers whose states are averaged over the second copy, as shares of the depth.
        last_layers: Layers whose state of the last token is taken, as shares of the depth.
        batch_tokens: How many tokens one forward pass reads at most, padding included.
        max_tokens: Of one copy; what is longer is cut.
    """

    opening: str = 'A person says: "'
    again: str = '"\nThe person says again: "'
    question: str = '"\nIn one word, the person wants the assistant to:'
    mean_layers: tuple[float, ...] = (0.47, 0.8)
    last_layers: tuple[float, ...] = (0.8, 0.93)
    batch_tokens: int = 2048
    max_tokens: int = 128

    def __post_init__(self) -> None:
        shares = (*self.mean_layers, *self.last_layers)
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                f"layers are shares of the depth, 0 to 1, at least one of them: not {shares}", stage=_STAGE
            )
        if self.batch_tokens < 1 or self.max_tokens < 1:
            raise ConfigError("batch_tokens and max_tokens must be at least 1", stage=_STAGE)


class StateReader:
    """Inner states of a language model that is loaded already; it stays as it is, and may go on answering."""

    def __init__(self, chat: TransformersChatModel, *, options: StateOptions | None = None) -> None:
        """Read with the weights and the tokenizer of a chat model; its streams are not touched."""
        self.options = options or StateOptions()
        self.name = f"{chat.name} states"
        self._chat = chat
        depth = int(chat.model.config.num_hidden_layers)
        self._means = [round(share * depth) for share in self.options.mean_layers]
        self._lasts = [round(share * depth) for share in self.options.last_layers]

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """One block per layer that is averaged, then one per last state; see ``TextReader.read``."""
        width = int(self._chat.model.config.hidden_size)
        blocks = np.zeros((len(self._means) + len(self._lasts), len(texts), width), np.float32)
        opening, again, question = map(self._ids, (self.options.opening, self.options.again, self.options.question))
        sentences = [self._ids(text)[: self.options.max_tokens] or again[-1:] for text in texts]
        prompts = [[*opening, *sentence, *again, *sentence, *question] for sentence in sentences]
        for batch in _batches(prompts, self.options.batch_tokens):
            rows = [prompts[row] for row in batch]
            starts = [len(opening) + len(again) + len(sentences[row]) for row in batch]
            spans = [(start, start + len(sentences[row])) for start, row in zip(starts, batch, strict=True)]
            blocks[:, batch] = on_model_thread(partial(self._forward, rows, spans))
        return tuple(blocks)

    def _forward(self, prompts: list[list[int]], spans: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Features of some prompts; shape (blocks, prompts, hidden size)."""
        import torch

        width = max(map(len, prompts))
        # Padding on the right needs no mask: a causal model's states do not depend on what follows.
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self._chat.device)
        with torch.inference_mode():
            states = self._chat.model.get_decoder()(ids, use_cache=False, output_hidden_states=True).hidden_states
            share = torch.zeros(ids.shape, device=self._chat.device)
            for row, (start, end) in enumerate(spans):
                share[row, start:end] = 1 / (end - start)
            ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._chat.device)
            means = [(states[layer].float() * share[:, :, None]).sum(dim=1) for layer in self._means]
            lasts = [states[layer].float()[torch.arange(len(prompts)), ends] for layer in self._lasts]
            return np.asarray(torch.stack([*means, *lasts]).cpu().numpy(), np.float32)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._chat.tokenizer(text, add_special_tokens=False).input_ids
        return ids


@dataclass(frozen=True, slots=True)
class IntentOptions:
    """How the label head is fitted.

    Attributes:
        shrinkage: Ridge penalty, where a text's kernel with itself is 1; None takes the one that leave-one-out likes
            best.
        plain: Whether texts are read in lower case and without marks, as most recognisers write them.
        tuned_from: From how many examples on an encoder, if the classifier has one, is fine-tuned too. Fewer are better
            off with the closed form alone.
        tuning: How it is.
    """

    shrinkage: float | None = None
    plain: bool = True
    tuned_from: int = 1000
    tuning: TuningOptions = field(default_factory=TuningOptions)

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not self.shrinkage > 0:
            raise ConfigError(f"shrinkage must be positive, not {self.shrinkage}; None finds one", stage=_STAGE)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What somebody wants.

    Attributes:
        intent: The likeliest label; "" if nothing was said.
        probability: Its calibrated probability, [0, 1]; 0 if nothing was said.
        ranked: All labels with their probabilities, likeliest first.
    """

    intent: str
    probability: float
    ranked: tuple[tuple[str, float], ...] = field(default=(), repr=False)

    @property
    def margin(self) -> float:
        """How far the likeliest label lies above the second."""
        return self.probability - (self.ranked[1][1] if len(self.ranked) > 1 else 0.0)


@dataclass(frozen=True, slots=True)
class LabelHead:
    """A classifier of features: least squares on ±1 labels over a Gaussian kernel, fitted in closed form.

    All that can be tuned is tuned by leave-one-out, which costs no second fit (Rifkin & Lippert 2007, "Notes on
    regularized least squares"): the penalty by accuracy, and how sharp the softmax is by likelihood.

    Attributes:
        labels: Sorted.
        mean: Of each feature over the training texts; float32, shape (dim,).
        scale: Standard deviation of each; float32, shape (dim,).
        shares: How much each block counts; they sum to 1.
        rows: Training texts, scaled so that each has length 1; float32, shape (n, dim).
        weights: Of the training texts in the score of each label; float32, shape (n, labels).
        sharpness: Scores are multiplied by it before the softmax.
        shrinkage: The penalty that was taken.
        left_out: Accuracy on training texts while they were left out.
        left_out_scores: Of training texts while they were left out, shape (n, labels); None once it is loaded.
    """

    labels: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    shares: tuple[float, ...]
    rows: NDArray[np.float32]
    weights: NDArray[np.float32]
    sharpness: float
    shrinkage: float
    left_out: float
    left_out_scores: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        blocks: Sequence[NDArray[np.float32]],
        labels: Sequence[str],
        *,
        shares: Sequence[float] | None = None,
        shrinkage: float | None = None,
    ) -> LabelHead:
        """Fit a head.

        Args:
            blocks: Each float32, shape (n, its width).
            labels: One for each row.
            shares: How much each block counts; None lets all count alike.
            shrinkage: As in ``IntentOptions``.
        """
        names = tuple(sorted(set(labels)))
        places = np.array([names.index(label) for label in labels])
        features = np.concatenate(blocks, axis=1).astype(np.float32)
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        shares = tuple(shares or [1 / len(blocks)] * len(blocks))
        # In half precision, as they are saved: what is loaded then gives what was fitted.
        rows = _even((features - mean) / scale, blocks, shares).astype(np.float16).astype(np.float32)
        targets = np.where(places[:, None] == np.arange(len(names)), 1.0, -1.0)
        values, vectors = np.linalg.eigh(_kernel(rows, rows))
        turned = vectors.T @ targets
        tried = [
            (float((scores.argmax(axis=1) == places).mean()), penalty, scores, dual)
            for penalty in ((shrinkage,) if shrinkage is not None else _SHRINKAGES)
            for scores, dual in (_left_out(values, vectors, turned, targets, penalty),)
        ]
        left_out, penalty, scores, dual = max(tried, key=lambda trial: trial[:2])  # of equals the strongest
        often = np.bincount(places)[places] > 1  # the only example of a label is always wrong when it is left out
        sharpness = _sharpness(scores[often], places[often])
        return cls(names, mean, scale, shares, rows, dual.astype(np.float32), sharpness, penalty, left_out, scores)

    def probabilities(self, blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Probability of each label: shape (n, labels)."""
        features = np.concatenate(blocks, axis=1).astype(np.float32)
        rows = _even((features - self.mean) / self.scale, blocks, self.shares)
        return _softmax(self.sharpness * (_kernel(rows, self.rows) @ self.weights.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """The head and the tuned encoders together: a logarithmic opinion pool (Genest & Zidek 1986).

    Both count alike. What is left out shows each of them weaker than it will be, by how much is not known, and shares
    that are fitted to it generalise worse than equal ones (the forecast combination puzzle, Stock & Watson 2004).

    Attributes:
        sharpness: Log-probabilities are multiplied by it before the softmax.
        left_out: Accuracy on training texts, each judged by what did not learn from it.
    """

    sharpness: float
    left_out: float

    @classmethod
    def fit(cls, head: NDArray[np.float64], tuned: NDArray[np.float64], places: NDArray[np.int_]) -> Mixture:
        """The sharpness under which labels are likeliest.

        Args:
            head: Log-probabilities of each label for each text that was left out, shape (n, labels).
            tuned: The same of the encoders.
            places: Of the labels, shape (n,).
        """
        often = np.bincount(places)[places] > 1  # nobody can know the only example of a label
        mixed = (head + tuned) / 2
        sharpness = _sharpness(mixed[often], places[often])
        return cls(sharpness, float((mixed.argmax(axis=1) == places).mean()))

    def probabilities(self, head: NDArray[np.float64], tuned: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each label, shape (n, labels), from the log-probabilities of both."""
        return _softmax(self.sharpness * (head + tuned) / 2)


class IntentClassifier:
    """A label head on what frozen models see in a text; from a few examples a label to thousands.

    Where examples are many, copies of a sentence encoder are fine-tuned to the labels, and mixed in.

    A list of hypotheses is a mixture: P(intent) is the sum over hypotheses of P(hypothesis) P(intent | hypothesis).
    """

    def __init__(
        self,
        readers: Sequence[TextReader],
        *,
        encoder: str | Path | None = None,
        options: IntentOptions | None = None,
        device: Device = "auto",
    ) -> None:
        """Make one that knows no label yet.

        Args:
            readers: Where features come from. ``open_readers()`` gives the language model's states and the embedder's
                vectors, which together beat either.
            encoder: Folder of a sentence-transformers model, of which copies are fine-tuned if there are
                ``IntentOptions.tuned_from`` examples; None leaves that out. ``find_encoder()`` gives the assistant's.
            options: How all is fitted.
            device: Where the copies run.
        """
        if not readers:
            raise ConfigError("an IntentClassifier needs a reader: open_readers() gives two", stage=_STAGE)
        self.options = options or IntentOptions()
        self._readers = tuple(readers)
        self._encoder = encoder
        self._device: Device = device
        self._head: LabelHead | None = None
        self._tuned: tuple[TunedEncoders, Mixture] | None = None

    @property
    def head(self) -> LabelHead:
        """What was fitted.

        Raises:
            ConfigError: If nothing was.
        """
        if self._head is None:
            raise ConfigError("this IntentClassifier has learned nothing: fit it, or load a fitted one", stage=_STAGE)
        return self._head

    @property
    def mixture(self) -> Mixture | None:
        """How the head and fine-tuned encoders are mixed; None if there are none."""
        return self._tuned[1] if self._tuned else None

    @property
    def left_out(self) -> float:
        """Accuracy on training texts, each judged by what did not learn from it."""
        return self._tuned[1].left_out if self._tuned else self.head.left_out

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that it can give, sorted."""
        return self.head.labels

    def fit(
        self,
        items: Sequence[Heard],
        labels: Sequence[str],
        *,
        resume: str | Path | None = None,
        progress: models.Progress | None = None,
    ) -> Self:
        """Learn from examples; what was learned before is forgotten. The same examples give the same classifier.

        Args:
            items: Texts, or lists of hypotheses, whose features are averaged by weight.
            labels: One for each item.
            resume: Folder in which fine-tuning leaves where it is, and goes on if it was broken off; None leaves
                nothing. Who has saved the classifier may let ``intent_tuning.forget`` delete it.
            progress: Told how many texts are read, and how far fine-tuning is.

        Raises:
            ConfigError: If there are not two labels, an item says nothing, or the numbers differ.
        """
        lists = [self._weighed(item) for item in items]
        if len(items) != len(labels) or len(set(labels)) < 2:
            raise ConfigError(
                f"{len(items)} items and {len(labels)} labels, {len(set(labels))} of them different: "
                "give one label for each item, and at least two different ones",
                stage=_STAGE,
            )
        empty = next((number for number, hypotheses in enumerate(lists) if not hypotheses), None)
        if empty is not None:
            raise ConfigError(f"item {empty} (label {labels[empty]!r}) says nothing: leave it out", stage=_STAGE)
        features, shares = self._read([text for hypotheses in lists for text in hypotheses], progress)
        labels = [str(label) for label in labels]
        self._tuned = None
        self._head = LabelHead.fit(
            [_averaged(block, lists) for block in features], labels, shares=shares, shrinkage=self.options.shrinkage
        )
        if self._encoder is not None and len(items) >= self.options.tuned_from:
            self._tuned = self._tune(self._encoder, self._head, lists, labels, resume, progress)
        return self

    def _tune(
        self,
        encoder: str | Path,
        head: LabelHead,
        lists: Sequence[Mapping[str, float]],
        labels: Sequence[str],
        resume: str | Path | None,
        progress: models.Progress | None,
    ) -> tuple[TunedEncoders, Mixture]:
        """Fine-tuned encoders, and how much they say beside a head that was just fitted."""
        assert head.left_out_scores is not None
        number = {label: place for place, label in enumerate(head.labels)}
        places = np.array([number[label] for label in labels])
        tuned = TunedEncoders(encoder, len(head.labels), device=self._device)
        folder = None if resume is None else Path(resume)
        left_out = tuned.fit(lists, places, self.options.tuning, resume=folder, progress=progress)
        alone = np.log(_softmax(head.sharpness * head.left_out_scores) + _LEAST)
        return tuned, Mixture.fit(alone, left_out, places)

    def predict(self, heard: Heard) -> Prediction:
        """What somebody wants who said one text, or one of several.

        Raises:
            ConfigError: If nothing was learned yet.
        """
        return self.predict_many([heard])[0]

    def predict_many(self, items: Sequence[Heard], *, progress: models.Progress | None = None) -> list[Prediction]:
        """As `predict` for each item; texts are read together, and each only once.

        Raises:
            ConfigError: If nothing was learned yet.
        """
        head = self.head
        lists = [self._weighed(item) for item in items]
        texts = [text for hypotheses in lists for text in hypotheses]
        mixed = np.zeros((len(items), len(head.labels)))
        if texts:
            each = head.probabilities(self._read(texts, progress)[0])
            if self._tuned:
                tuned, mixture = self._tuned
                each = mixture.probabilities(np.log(each + _LEAST), tuned.log_probabilities(texts))
            mixed = _averaged(each, lists)
        return [
            _prediction(head.labels, row) if hypotheses else Prediction("", 0.0)
            for row, hypotheses in zip(mixed, lists, strict=True)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write what was learned: JSON and safetensors; the models that read are named, not copied.

        Raises:
            ConfigError: If nothing was learned yet.
        """
        from safetensors.numpy import save_file

        head, folder = self.head, Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"mean": head.mean, "scale": head.scale, "weights": head.weights}
        save_file({**arrays, "rows": head.rows.astype(np.float16)}, folder / "head.safetensors")
        card = {
            "what": "label head on states of frozen models",
            "readers": [reader.name for reader in self._readers],
            "options": asdict(self.options),
            "labels": head.labels,
            "shares": head.shares,
            "sharpness": head.sharpness,
            "shrinkage": head.shrinkage,
            "left_out": head.left_out,
        }
        (folder / "tuned.safetensors").unlink(missing_ok=True)  # of an earlier fit
        if self._tuned:
            tuned, mixture = self._tuned
            save_file(tuned.arrays(), folder / "tuned.safetensors")
            card["tuned"] = {"encoder": tuned.name, "mixture": asdict(mixture)}
        (folder / "intents.json").write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        readers: Sequence[TextReader] | None = None,
        encoder: str | Path | None = None,
        device: Device = "auto",
    ) -> IntentClassifier:
        """Open what `save` wrote.

        Args:
            folder: Where it is.
            readers: As it was fitted with; None opens those of ``open_readers``.
            encoder: As it was fitted with; None takes that of ``find_encoder``, if one was fine-tuned.
            device: Where these run.

        Raises:
            ConfigError: If the folder holds no such head, or it was fitted with other readers or another encoder.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            card = json.loads((Path(folder) / "intents.json").read_text(encoding="utf-8"))
            arrays = load_file(Path(folder) / "head.safetensors")
            head = LabelHead(
                labels=tuple(card["labels"]),
                shares=tuple(card["shares"]),
                mean=arrays["mean"],
                scale=arrays["scale"],
                rows=arrays["rows"].astype(np.float32),
                weights=arrays["weights"],
                sharpness=float(card["sharpness"]),
                shrinkage=float(card["shrinkage"]),
                left_out=float(card["left_out"]),
            )
            said, names, tuned = dict(card["options"]), list(card["readers"]), card.get("tuned")
            options = IntentOptions(**{**said, "tuning": TuningOptions(**said["tuning"])})
            weights = load_file(Path(folder) / "tuned.safetensors") if tuned else {}
            mixture = Mixture(**tuned["mixture"]) if tuned else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(
                f"{folder} holds no intents ({error!r}): `vivavoce train intents` makes them", stage=_STAGE
            ) from error
        if head.weights.shape != (len(head.rows), len(head.labels)) or head.rows.shape[1:] != head.mean.shape:
            raise ConfigError(f"the head in {folder} does not fit its labels: train it again", stage=_STAGE)
        readers = open_readers(device=device) if readers is None else readers
        if [reader.name for reader in readers] != names:
            raise ConfigError(
                f"{folder} was fitted with {names}, not with {[reader.name for reader in readers]}: "
                "give the same readers, or fit again",
                stage=_STAGE,
            )
        if mixture is not None:
            encoder = find_encoder() if encoder is None else encoder
            if Path(encoder).name != tuned["encoder"]:
                raise ConfigError(
                    f"{folder} was fitted with {tuned['encoder']}, not with {Path(encoder).name}: "
                    "give the same encoder, or fit again",
                    stage=_STAGE,
                )
        classifier = cls(readers, encoder=encoder, options=options, device=device)
        classifier._head = head
        if encoder is not None and mixture is not None:
            encoders = TunedEncoders(encoder, len(head.labels), device=device)
            try:
                encoders.restore(weights, options.tuning.members)
            except (KeyError, ValueError) as error:
                raise ConfigError(
                    f"the encoders in {folder} do not fit ({error!r}): train again", stage=_STAGE
                ) from error
            classifier._tuned = encoders, mixture
        return classifier

    def _weighed(self, heard: Heard) -> dict[str, float]:
        """Texts as they are read, with weights that sum to 1; empty if nothing was said."""
        texts: dict[str, float] = {}
        for text, weight in readings(heard):
            text = plainly(text) if self.options.plain else text.strip()
            if text and weight > 0:
                texts[text] = texts.get(text, 0.0) + weight
        total = sum(texts.values())
        return {text: weight / total for text, weight in texts.items()}

    def _read(
        self, texts: Sequence[str], progress: models.Progress | None
    ) -> tuple[list[NDArray[np.float32]], list[float]]:
        """Features of texts, one block after the other, and their shares; a text that occurs twice is read once."""
        own = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        # Sorted by length before they are cut into chunks: little of a batch is then padding.
        order = sorted(own, key=len)
        parts = []
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            read = [reader.read(chunk) for reader in self._readers]
            parts.append([block for blocks in read for block in blocks])
            if progress is not None:
                progress(start + len(chunk), len(order), "reading texts")
        place = {text: row for row, text in enumerate(order)}
        rows = [place[text] for text in texts]
        shares = [1 / len(read) / len(blocks) for blocks in read for _ in blocks]
        return [np.concatenate(blocks)[rows] for blocks in zip(*parts, strict=True)], shares


def open_readers(
    chat: TransformersChatModel | None = None,
    embedder: Embedder | None = None,
    *,
    device: Device = "auto",
    progress: models.Progress | None = None,
) -> tuple[TextReader, ...]:
    """The readers that an ``IntentClassifier`` takes by default: the language model's states, and sentence vectors.

    Args:
        chat: A model that is loaded already; None loads the assistant's own.
        embedder: The same.
        device: Where they run, if they are loaded here.
        progress: Told how a download goes.
    """
    from .assistant import LLM

    if chat is None:
        chat = TransformersChatModel(models.resolve(LLM, progress=progress), device=device)
    return StateReader(chat), EmbeddingReader(embedder or open_embedder(device=device, progress=progress))


def find_encoder(*, progress: models.Progress | None = None) -> Path:
    """Folder of the sentence encoder that an ``IntentClassifier`` may fine-tune: the one of ``open_embedder``."""
    from .assistant import EMBEDDING

    return models.resolve(EMBEDDING, progress=progress)


def open_embedder(*, device: Device = "auto", progress: models.Progress | None = None) -> Embedder:
    """The assistant's own sentence vectors, computed where all models compute."""
    from vivavoce.retrieval import SentenceTransformerEmbedder

    folder = find_encoder(progress=progress)
    return OnModelThread(on_model_thread(lambda: SentenceTransformerEmbedder(folder, device=device)))


def plainly(text: str) -> str:
    """A text in lower case, without marks, and without the signs that recognisers write for words they do not know.

    Example:
        >>> plainly("What 's the <unk> weather, please?")
        "what's the weather please"
    """
    text = re.sub(r"<\s*unk\s*>|@@unknown@@", " ", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    text = re.sub(r"\s+'(?=(?:s|m|d|t|re|ve|ll)\b)", "'", text)
    return " ".join(re.sub(r"[^\w\s'$%&+]|(?<!\w)'|'(?!\w)", " ", text).split())


def readings(heard: Heard) -> Iterator[tuple[str, float]]:
    """What may have been said, with weights, which need not sum to 1."""
    if isinstance(heard, str):
        yield heard, 1.0
    elif isinstance(heard, Transcript):
        yield from zip((hypothesis.text for hypothesis in heard.hypotheses), heard.posteriors(), strict=True)
    else:
        for rank, hypothesis in enumerate(heard):
            yield (hypothesis, 0.5**rank) if isinstance(hypothesis, str) else (str(hypothesis[0]), float(hypothesis[1]))


def _averaged(rows: NDArray[Any], lists: Sequence[Mapping[str, float]]) -> NDArray[Any]:
    """Rows of hypotheses, summed by weight into one row for each list."""
    out = np.zeros((len(lists), rows.shape[1]), rows.dtype)
    owners = [number for number, hypotheses in enumerate(lists) for _ in hypotheses]
    weights = np.array([weight for hypotheses in lists for weight in hypotheses.values()], rows.dtype)
    np.add.at(out, owners, rows * weights[:, None])
    return out


def _prediction(labels: Sequence[str], probabilities: NDArray[np.float64]) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")
    ranked = tuple((labels[place], float(probabilities[place])) for place in order)
    return Prediction(*ranked[0], ranked)


def _even(
    features: NDArray[np.float32], blocks: Sequence[NDArray[np.float32]], shares: Sequence[float]
) -> NDArray[np.float32]:
    """Every block of every row scaled to the root of its share, so that a row has length 1."""
    parts = np.split(features, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)
    even = [
        part * (np.sqrt(share) / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6))
        for part, share in zip(parts, shares, strict=True)
    ]
    return np.asarray(np.concatenate(even, axis=1), np.float32)


def _kernel(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """exp(-width |x - y|²) of rows of length 1: shape (rows, others)."""
    return np.asarray(np.exp(2 * _WIDTH * (np.clip(rows @ others.T, -1.0, 1.0).astype(np.float64) - 1.0)))


def _left_out(
    values: NDArray[np.float64],
    vectors: NDArray[np.float64],
    turned: NDArray[np.float64],
    targets: NDArray[np.float64],
    penalty: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of each text by the fit without it, and the dual weights of the fit with all; both (n, labels)."""
    inverse = 1 / (np.maximum(values, 0.0) + penalty)
    dual = vectors @ (inverse[:, None] * turned)
    return targets - dual / (np.square(vectors) @ inverse)[:, None], dual


def _sharpness(scores: NDArray[np.float64], places: NDArray[np.int_]) -> float:
    """The factor under which left-out labels are likeliest (temperature scaling, https://arxiv.org/abs/1706.04599).

    Aimed at (n + 1) / (n + 2) instead of 1 (Platt 1999): a few examples that are all told apart prove no certainty.
    """
    if not len(scores):  # one example of each label: there is nothing to fit it to
        return 4.0
    wanted = np.full(scores.shape, 1 / (len(scores) + 2) / (scores.shape[1] - 1))
    wanted[np.arange(len(places)), places] = (len(scores) + 1) / (len(scores) + 2)

    def likelihood(sharpness: float) -> float:
        return float((wanted * np.log(_softmax(sharpness * scores) + 1e-12)).sum())

    return max(_SHARPNESSES, key=likelihood)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of rows of like length, so many together as tokens allow."""
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if batch and (len(batch) + 1) * len(rows[place]) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
