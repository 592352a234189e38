"""What somebody wants: a label for a text, or for everything that a recogniser may have heard.

classifier = IntentClassifier([StateReader(chat)]).fit(["book a table", "we need a taxi"], ["table", "taxi"])
classifier.predict(transcript).intent
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval.embedding.identity import model_name
from vivavoce.speech import Transcript

from ..errors import ConfigError
from ..model.chat import Device
from ..weights import EMBEDDING, Progress, resolve
from .heads import CHUNK, LEAST_PROBABILITY, LabelHead, Mixture, Prediction, prediction, softmax_rows
from .readers import TextReader, open_readers
from .tuning import TunedEncoders, TuningOptions

Heard: TypeAlias = str | Transcript | Sequence[str] | Sequence[tuple[str, float]]
"""A text, a transcript, hypotheses best first (each then counts half of the one before), or hypotheses with weights."""

_STAGE = "intents"


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
                ``IntentOptions.tuned_from`` examples; None leaves that out.
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
        progress: Progress | None = None,
    ) -> Self:
        """Learn from examples; what was learned before is forgotten. The same examples give the same classifier.

        Args:
            items: Texts, or lists of hypotheses, whose features are averaged by weight.
            labels: One for each item.
            resume: File in which fine-tuning leaves where it is, and goes on if it was broken off, until `save`
                removes it; None leaves nothing.
            progress: Told how many texts are read, and how far fine-tuning is.

        Raises:
            ConfigError: If there are not two labels, an item says nothing, the numbers differ, or the checkpoint is
                damaged or of another run.
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
        progress: Progress | None,
    ) -> tuple[TunedEncoders, Mixture]:
        """Fine-tuned encoders, and how much they say beside a head that was just fitted."""
        assert head.left_out_scores is not None
        number = {label: place for place, label in enumerate(head.labels)}
        places = np.array([number[label] for label in labels])
        tuned = TunedEncoders(encoder, len(head.labels), device=self._device)
        folder = None if resume is None else Path(resume)
        left_out = tuned.fit(lists, places, self.options.tuning, resume=folder, progress=progress)
        alone = np.log(softmax_rows(head.sharpness * head.left_out_scores) + LEAST_PROBABILITY)
        return tuned, Mixture.fit(alone, left_out, places)

    def predict(self, heard: Heard) -> Prediction:
        """What somebody wants who said one text, or one of several.

        Raises:
            ConfigError: If nothing was learned yet.
        """
        return self.predict_many([heard])[0]

    def predict_many(self, items: Sequence[Heard], *, progress: Progress | None = None) -> list[Prediction]:
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
                each = mixture.probabilities(np.log(each + LEAST_PROBABILITY), tuned.log_probabilities(texts))
            mixed = _averaged(each, lists)
        return [
            prediction(head.labels, row) if hypotheses else Prediction("", 0.0)
            for row, hypotheses in zip(mixed, lists, strict=True)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write what was learned: JSON and safetensors; the models that read are named, not copied.

        The checkpoint that `fit` has left, if any, is removed: the run has ended.

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
        if self._tuned and self._tuned[0].checkpoint is not None:
            self._tuned[0].checkpoint.remove()
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
            encoder: As it was fitted with; None takes the default embedding model, if one was fine-tuned.
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
            encoder = resolve(EMBEDDING) if encoder is None else encoder
            # The folder's name, too: models of the hub were once called by the hash of their snapshot.
            if tuned["encoder"] not in (model_name(encoder), Path(encoder).name):
                raise ConfigError(
                    f"{folder} was fitted with {tuned['encoder']}, not with {model_name(encoder)}: "
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

    def _read(self, texts: Sequence[str], progress: Progress | None) -> tuple[list[NDArray[np.float32]], list[float]]:
        """Features of texts, one block after the other, and their shares; a text that occurs twice is read once."""
        own = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        # Sorted by length before they are cut into chunks: little of a batch is then padding.
        order = sorted(own, key=len)
        parts = []
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            read = [reader.read(chunk) for reader in self._readers]
            parts.append([block for blocks in read for block in blocks])
            if progress is not None:
                progress(start + len(chunk), len(order), "reading texts")
        place = {text: row for row, text in enumerate(order)}
        rows = [place[text] for text in texts]
        shares = [1 / len(read) / len(blocks) for blocks in read for _ in blocks]
        return [np.concatenate(blocks)[rows] for blocks in zip(*parts, strict=True)], shares


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
