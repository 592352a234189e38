"""Sentence encoders that are fine-tuned to labels: where examples are many, they see more than frozen states show."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval.embedding.identity import model_name, weights_digest
from vivavoce.retrieval.embedding.loading import quiet_loading
from vivavoce.speech.lists.misheard import Misheard, MishearingOptions

from .. import weights
from ..checkpoint import Checkpoint, Run
from ..concurrency import on_model_thread
from ..errors import ConfigError
from ..model.chat import Device
from ..model.local import pick_device

if TYPE_CHECKING:
    import torch

_STAGE = "intents"
_MAX_TOKENS = 64
"""Of a text; what is longer is cut."""
_MIXED = 10
"""Batches that are sorted by length together."""
_MISHEARING = MishearingOptions("phonemes", misheard=0.12, dropped=0.04, short_dropped=0.1, split=0.02, inserted=0.02)
"""How texts are garbled."""


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """How encoders are fine-tuned.

    Attributes:
        members: How many are; each leaves another part of the texts out. At least 2.
        epochs: Passes of each over its texts.
        learning_rate: Of the encoder, at its highest, after a tenth of the steps.
        head_rate: Of the labels' weights.
        batch: Texts of one step.
        smoothing: Probability that is spread over all labels (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        garbled: Share of the texts that are garbled, anew in each epoch, as a recogniser would.
        seed: Of the parts, the order, what is garbled, and what is dropped out.
    """

    members: int = 4
    epochs: int = 8
    learning_rate: float = 1e-4
    head_rate: float = 2e-3
    batch: int = 32
    smoothing: float = 0.1
    garbled: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("members", 2), ("epochs", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}", stage=_STAGE)
        if not (self.learning_rate > 0 and self.head_rate > 0):
            raise ConfigError("learning_rate and head_rate must be positive", stage=_STAGE)
        if not (0 <= self.smoothing < 1 and 0 <= self.garbled <= 1):
            raise ConfigError("smoothing and garbled are shares, 0 to 1", stage=_STAGE)


class TunedEncoders:
    """Copies of a sentence encoder, each fine-tuned to the labels on all but a part of the texts.

    Cross-entropy on the mean of the last states (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), and, over
    members, the mean of their probabilities (Lakshminarayanan et al. 2016, https://arxiv.org/abs/1612.01474). What each
    has left out shows how well it generalises (stacked generalisation, Wolpert 1992). The table of words stays as it
    is: most of them occur in no example.
    """

    def __init__(self, folder: str | Path, labels: int, *, device: Device = "auto") -> None:
        """Load the encoder that all members begin with.

        Args:
            folder: A sentence-transformers or BERT model.
            labels: How many there are.
            device: Where members run.

        Raises:
            ConfigError: If the folder holds no such model.
        """
        self.name = model_name(folder)
        self._labels = labels
        self._device = pick_device(device)
        try:
            self._tokenizer, self._base = on_model_thread(partial(_opened, Path(folder), self._device))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no sentence encoder at {folder} ({error}): `vivavoce models` says which there are", stage=_STAGE
            ) from error
        self._members: list[torch.nn.Module] = []
        self.checkpoint: Checkpoint | None = None
        """Of the last fit, if it had one: who has saved what was fitted removes it."""

    def fit(
        self,
        items: Sequence[Mapping[str, float]],
        places: NDArray[np.int_],
        options: TuningOptions,
        *,
        resume: Path | None = None,
        progress: weights.Progress | None = None,
    ) -> NDArray[np.float64]:
        """Fine-tune all members, the same ones every time.

        Args:
            items: What was said, or may have been: texts with weights that sum to 1, of which each epoch draws one.
            places: Of their labels, shape (n,).
            options: How.
            resume: File in which every epoch leaves what is needed to go on from there, for the same items, places and
                options.
            progress: Told how many epochs are done.

        Returns:
            Log-probability of each label for each item, by the member that left it out; shape (n, labels).

        Raises:
            ConfigError: If the checkpoint is damaged, or of another run.
        """
        self.checkpoint = Checkpoint(resume, self._run(items, places, options)) if resume is not None else None
        fit = _Fit(self.checkpoint)
        texts = [text for item in items for text in item]
        misheard = Misheard(texts, _MISHEARING) if options.garbled else None
        parts = _parts(items, options)
        left_out = np.zeros((len(items), self._labels))
        self._members = []
        for number in range(options.members):
            others, own = np.flatnonzero(parts != number), np.flatnonzero(parts == number)
            member = on_model_thread(partial(self._member, options.seed + number))
            self._members.append(member)
            if number < len(fit.ready):
                _fill(member, {name: weight.numpy() for name, weight in fit.ready[number].items()})
            else:
                examples = _Examples([items[int(place)] for place in others], places[others], options, number, misheard)
                self._train(member, examples, fit, progress)
            left_out[own] = self._mixed([items[int(place)] for place in own], [member])
        return left_out

    def log_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each label for each text: shape (n, labels)."""
        return np.asarray(self._mixed([{text: 1.0} for text in texts], self._members), np.float64)

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """What members learned; the encoder's own table of words is not in it."""
        return {
            f"{number}.{name}": weight.detach().cpu().numpy().astype(np.float16)
            for number, member in enumerate(self._members)
            for name, weight in _learned(member).items()
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], members: int) -> None:
        """Take over what `arrays` gave.

        Raises:
            KeyError: If something is missing.
            ValueError: If it is of another shape.
        """
        self._members = [on_model_thread(partial(self._member, 0)) for _ in range(members)]
        for number, member in enumerate(self._members):
            _fill(member, {name: arrays[f"{number}.{name}"] for name in _learned(member)})

    def _member(self, seed: int) -> torch.nn.Module:
        """A copy of the encoder, which shares its table of words, with weights of labels that are near 0."""
        import torch

        words = self._base.get_input_embeddings()
        encoder = copy.deepcopy(self._base, {id(words): words})
        generator = torch.Generator().manual_seed(seed)
        head = torch.nn.Linear(int(self._base.config.hidden_size), self._labels)
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.005)
            head.bias.zero_()
        return torch.nn.ModuleDict({"encoder": encoder, "head": head}).to(self._device)

    def _run(self, items: Sequence[Mapping[str, float]], places: NDArray[np.int_], options: TuningOptions) -> Run:
        settings = asdict(options)
        seed = settings.pop("seed")
        data = zip(map(dict, items), places.tolist(), strict=True)
        return Run.of(data, settings, weights_digest(self._base), seed)

    def _train(self, member: Any, examples: _Examples, fit: _Fit, progress: weights.Progress | None) -> None:
        import torch

        options = examples.options
        groups = [
            {"params": list(part.values()), "peak": peak}
            for part, peak in (
                (_learned(member, "encoder."), options.learning_rate),
                (_learned(member, "head."), options.head_rate),
            )
        ]
        optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=0.01)
        for epoch in range(fit.restore(member, optimizer), options.epochs):
            batches = examples.batches(epoch)
            for step, (texts, wanted) in enumerate(batches, start=epoch * len(batches)):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * _rising_then_falling(step, len(batches) * options.epochs)
                seed = hash((options.seed, examples.number, step))
                on_model_thread(partial(self._step, member, optimizer, texts, wanted, options.smoothing, seed))
            fit.save(member, optimizer, epoch + 1, options.epochs)
            if progress is not None:
                done = examples.number * options.epochs + epoch + 1
                progress(done, options.members * options.epochs, f"fine-tuning{fit.resumed}")

    def _step(
        self, member: Any, optimizer: Any, texts: Sequence[str], wanted: Sequence[int], smoothing: float, seed: int
    ) -> None:
        import torch

        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)  # of what is dropped out: the same after a break
            member.train()
            target = torch.tensor(list(wanted), device=self._device)
            loss = torch.nn.functional.cross_entropy(self._scores(member, texts), target, label_smoothing=smoothing)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(_learned(member).values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def _mixed(self, items: Sequence[Mapping[str, float]], members: Sequence[Any]) -> NDArray[np.float64]:
        """Log of the mean probability over members, and over what may have been said."""
        texts = sorted({text for item in items for text in item}, key=len)
        rows = {text: row for row, text in enumerate(texts)}
        each = np.zeros((len(texts), self._labels))
        for start in range(0, len(texts), 64):
            chunk = texts[start : start + 64]
            each[start : start + len(chunk)] = on_model_thread(partial(self._probabilities, chunk, members))
        mixed = [sum(weight * each[rows[text]] for text, weight in item.items()) for item in items]
        return np.asarray(np.log(np.array(mixed).reshape(len(items), self._labels) + 1e-9))

    def _probabilities(self, texts: Sequence[str], members: Sequence[Any]) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            means = [self._scores(member.eval(), texts).softmax(-1) for member in members]
            return np.asarray(torch.stack(means).mean(dim=0).cpu().numpy(), np.float64)

    def _scores(self, member: Any, texts: Sequence[str]) -> torch.Tensor:
        """Shape (texts, labels)."""
        read = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        ).to(self._device)
        states = member["encoder"](input_ids=read.input_ids, attention_mask=read.attention_mask).last_hidden_state
        kept = read.attention_mask[:, :, None].to(states.dtype)
        scores: torch.Tensor = member["head"]((states * kept).sum(1) / kept.sum(1))
        return scores


@dataclass(frozen=True, slots=True)
class _Examples:
    """What one member learns from."""

    items: Sequence[Mapping[str, float]]
    places: NDArray[np.int_]
    options: TuningOptions
    number: int
    misheard: Misheard | None

    def batches(self, epoch: int) -> list[tuple[list[str], list[int]]]:
        """One epoch in random order; texts of a batch are about equally long. The same again for the same epoch."""
        rng = random.Random(f"{self.options.seed} {self.number} {epoch}")
        texts = []
        for item in self.items:
            text = rng.choices(list(item), list(item.values()))[0]
            garbled = self.misheard is not None and rng.random() < self.options.garbled
            texts.append(self.misheard(text, rng) if garbled and self.misheard else text)
        order = list(range(len(texts)))
        rng.shuffle(order)
        size = self.options.batch
        batches = []
        for start in range(0, len(order), size * _MIXED):
            alike = sorted(order[start : start + size * _MIXED], key=lambda row: len(texts[row]))
            batches += [alike[at : at + size] for at in range(0, len(alike), size)]
        rng.shuffle(batches)
        return [([texts[row] for row in batch], [int(self.places[row]) for row in batch]) for batch in batches]


class _Fit:
    """How far a fit is: members that are ready, and the state of the one that is being fine-tuned."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        state = (checkpoint.load() if checkpoint is not None else None) or {"ready": [], "current": None}
        self.ready: list[dict[str, torch.Tensor]] = state["ready"]
        """What each has learned, in half precision."""
        self._current: dict[str, Any] | None = state["current"]
        self.resumed = f", going on from epoch {state['epochs']}" if "epochs" in state else ""
        """What people should know about it: how it began."""

    def restore(self, member: Any, optimizer: Any) -> int:
        """How many epochs of the member that is not ready yet are done, with what they gave."""
        import torch

        if self._current is None:
            return 0
        with torch.no_grad():
            for name, weight in _learned(member).items():
                weight.copy_(self._current["weights"][name])
        optimizer.load_state_dict(self._current["optimizer"])
        epoch, self._current = int(self._current["epoch"]), None
        return epoch

    def save(self, member: Any, optimizer: Any, epoch: int, epochs: int) -> None:
        """After an epoch of a member; the last one makes it ready."""
        done = len(self.ready) * epochs + epoch
        learned = {name: weight.detach().cpu() for name, weight in _learned(member).items()}
        current = {"epoch": epoch, "weights": learned, "optimizer": optimizer.state_dict()}
        if epoch == epochs:
            _fill(member, {name: weight.numpy() for name, weight in learned.items()})
            self.ready.append({name: weight.half() for name, weight in learned.items()})
        if self._checkpoint is not None:
            self._checkpoint.save({"epochs": done, "ready": self.ready, "current": current if epoch < epochs else None})


def _opened(folder: Path, device: str) -> tuple[Any, Any]:
    """Tokenizer and encoder; the table of words is not trained, and nothing is put on top."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    with quiet_loading():
        encoder: Any = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    encoder.get_input_embeddings().requires_grad_(False)
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True), encoder.to(device)


def _learned(member: Any, begins: str = "") -> dict[str, Any]:
    return {
        name: weight for name, weight in member.named_parameters() if weight.requires_grad and name.startswith(begins)
    }


def _fill(member: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Set weights, in half precision, as they are saved: what is loaded then gives what was fitted."""
    import torch

    with torch.no_grad():
        for name, weight in _learned(member).items():
            array = arrays[name].astype(np.float16).astype(np.float32)
            if array.shape != tuple(weight.shape):
                raise ValueError(f"{name} has shape {array.shape}, not {tuple(weight.shape)}")
            weight.copy_(torch.from_numpy(array))


def _parts(items: Sequence[Mapping[str, float]], options: TuningOptions) -> NDArray[np.int_]:
    """Which member leaves each item out; those that may say the same fall into one part."""
    said = [max(item, key=lambda text: item[text]) for item in items]
    different = sorted(set(said))
    random.Random(options.seed).shuffle(different)
    part = {text: place % options.members for place, text in enumerate(different)}
    return np.array([part[text] for text in said])


def _rising_then_falling(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first tenth, then down, both in a straight line."""
    return min((step + 1) / max(1, steps // 10), (steps - step) / max(1.0, 0.9 * steps))
