"""Trains an embedding adapter: what belongs together moves together, and a teacher shows where all of it belongs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .adapter import (
    LEXICAL,
    OFFSET,
    PROJECTION,
    TASKS,
    AdapterConfig,
    Attention,
    Reading,
    Task,
    both_parts,
    linear_layers,
    lower_layers,
    write,
)
from .embedding import Embedder, Kind, Vectors, hidden_states, mean_pooled
from .errors import EmbeddingError, LoadingError
from .generation import question_log_likelihoods
from .lexical import LexicalMap, fit_lexical

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
Misheard = Callable[[str, random.Random], str]
Generation = Callable[[Sequence[tuple[str, str]]], list[float]]

_MIXED = 64  # batches whose texts are sorted by length together
_NEIGHBOURS = 4  # pairs that stay together when pairs are shuffled


READINGS: Mapping[Task, Reading] = {
    "knowledge": Reading("Find a passage that answers this question:"),
    "memory": Reading("Find what was said earlier that answers this:"),
    "tool": Reading("Find the tool that does this:", 0.3),
    "example": Reading("Find a request that means the same:", 0.3),
}
"""Instructions that a run can be given."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, and a passage that answers it.

    Attributes:
        query: What is asked, or said.
        passage: What is to be found.
        task: What for.
        group: Pairs of one group are not told apart; empty for the passage itself.
    """

    query: str
    passage: str
    task: Task = "knowledge"
    group: str = ""


@dataclass(frozen=True, slots=True)
class EmbedderTraining:
    """How an embedding adapter is trained.

    Attributes:
        layers: How many of the model's first layers are read.
        rank: Of the LoRA matrices; they are scaled by 2.
        dim: Length of the part of the vectors that is pooled from hidden states; with a teacher its own.
        attention: See `AdapterConfig`.
        max_tokens: Longer texts are cut to this ever after.
        cut: Longer texts are cut to this while training.
        lexical: How much of a cosine the lexical part decides (see `AdapterConfig`); with 0 there is none.
        spoken: Whether all texts are read in lower case, without marks.
        tasks: What is read in another way for a task.
        texts: Texts in a step that only follows the teacher.
        pairs: Pairs in a step that tells passages apart.
        word_pairs: Pairs in a step that tells passages apart by their words alone.
        fitted: Texts that the projection is fitted to before the first step.
        word_steps: Steps of the last kind; they come first, and only they change the lexical part.
        text_steps: Steps of the first kind; they come next.
        pair_steps: Steps of the second kind.
        temperature: Of the contrast.
        misheard: Share of the queries that are read as a recogniser might have written them.
        follow: Weight of following the teacher beside the contrast.
        generation: Weight of the generation score: passages that make a question likely, by the whole language model,
            are to be near it (GRL of ULLME, Man et al. 2024, https://arxiv.org/abs/2408.03402); 0 for none. The whole
            model reads every question with each of some passages, which wants a GPU.
        candidates: With how many passages.
        same: Passages whose teacher vectors are closer than this do not count as wrong for each other's questions.
        learning_rate: At its highest, after a twentieth of the steps.
        save_every: Steps between two checkpoints.
    """

    layers: int = 4
    rank: int = 32
    dim: int = 384
    attention: Attention = "bidirectional"
    max_tokens: int = 256
    cut: int = 160
    lexical: float = 0.7
    spoken: bool = True
    tasks: Mapping[Task, Reading] = field(default_factory=dict, hash=False)
    texts: int = 64
    pairs: int = 24
    word_pairs: int = 256
    fitted: int = 3000
    word_steps: int = 100
    text_steps: int = 400
    pair_steps: int = 400
    temperature: float = 0.05
    misheard: float = 0.5
    follow: float = 2.0
    generation: float = 0.0
    candidates: int = 4
    same: float = 0.9
    learning_rate: float = 1e-3
    save_every: int = 25

    def __post_init__(self) -> None:
        for name in (
            "layers",
            "rank",
            "dim",
            "max_tokens",
            "cut",
            "texts",
            "pairs",
            "word_pairs",
            "candidates",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if min(self.word_steps, self.text_steps, self.pair_steps) < 0 or self.text_steps + self.pair_steps < 1:
            raise ValueError("No number of steps may be negative, and text_steps or pair_steps must be at least 1.")
        if not (self.temperature > 0 and self.learning_rate > 0):
            raise ValueError("temperature and learning_rate must be positive.")
        if not 0 <= self.misheard <= 1:
            raise ValueError(f"misheard is a share, in [0, 1], not {self.misheard}.")


@dataclass(frozen=True, slots=True)
class _Step:
    """Places of the pairs or the texts of one step."""

    kind: Literal["words", "texts", "pairs"]
    places: tuple[int, ...]


def train_embedder(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    texts: Sequence[str],
    out: str | Path,
    *,
    teacher: Embedder | None = None,
    misheard: Misheard | None = None,
    options: EmbedderTraining | None = None,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit LoRA matrices in the lower layers of a frozen language model, and a projection, so that answers are near.

    The lexical part, if there is one, is fitted to all texts; then questions are told apart by it alone, in a few small
    steps. The projection begins as the linear map that comes nearest to a teacher's vectors (ridge regression from the
    frozen layers). Then every text is put where the teacher puts it (Reimers & Gurevych 2020,
    https://arxiv.org/abs/2004.09813); half of them are read with the errors of a recogniser, while the teacher sees
    what was meant. Then questions are told apart from the passages of the other questions of a step (InfoNCE, van den
    Oord et al. 2018, https://arxiv.org/abs/1807.03748), both ways; passages that the teacher finds all but the same are
    not told apart, and the lexical part counts but is left as it is.

    Args:
        model: A transformers causal language model, left as it is.
        tokenizer: Its tokenizer.
        pairs: Questions with their passages.
        texts: Other texts: for the steps that only follow the teacher, questions and passages are used as well.
        out: Folder for the adapter; a run that was broken off goes on from its checkpoint there.
        teacher: Where texts belong; without one there are only pairs.
        misheard: Writes a query as a recogniser might have understood it.
        options: How it is trained.
        seed: Of all that is drawn.
        about: What else the card says: data, command.
        progress: Called with steps done, steps in all and a label.

    Returns:
        The card.

    Raises:
        LoadingError: If there are too few pairs or texts for one step.
        EmbeddingError: If the model has too few layers, or the checkpoint is of another run.
    """
    import torch

    options = options or EmbedderTraining()
    if teacher is not None and teacher.dim != options.dim:
        raise EmbeddingError(
            f"The teacher's vectors have {teacher.dim} dimensions, not {options.dim}: set dim to that."
        )
    steps = _plan(pairs, _sizes(pairs, texts), options, seed, followed=teacher is not None)
    torch.manual_seed(seed)
    student = _Student(model, tokenizer, options)
    generation = None
    if options.generation:
        generation = partial(question_log_likelihoods, model, tokenizer, max_tokens=options.cut)
    learner = _Learner(student, list(pairs), _all_texts(pairs, texts), teacher, misheard, generation, options)
    optimizer = torch.optim.AdamW(
        [
            {"params": student.beside, "lr": options.learning_rate},
            {"params": student.projecting, "lr": options.learning_rate / 5},  # it begins near its goal
            *({"params": part, "lr": rate, "weight_decay": 0.0} for part, rate in student.lexical_rates),
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_falling(step, len(steps)))
    folder = Path(out)
    run = _digest(asdict(options), seed, len(pairs), len(texts), pairs[:1], texts[:1])
    checkpoint = _Checkpoint(folder / "checkpoint.pt", run)
    losses = checkpoint.load(student, optimizer, schedule)
    began = time.monotonic()
    if not losses:
        learner.fit_lexical()
        learner.fit_projection(random.Random(seed), progress)
    for number, step in enumerate(steps[len(losses) :], start=len(losses) + 1):
        loss = learner.loss(step, random.Random(f"{seed} {number}"))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(number, len(steps), f"{step.kind}, loss {_mean(losses[-20:]):.3f}")
        if number % options.save_every == 0:
            checkpoint.save(student, optimizer, schedule, losses)
    card = {
        "what": "LoRA adapter: text embeddings from the lower layers of a language model",
        "base": Path(str(getattr(model.config, "name_or_path", ""))).name,
        "teacher": teacher.name if teacher else None,
        "pairs": len(pairs),
        "texts": len(texts),
        "settings": {**asdict(options), "seed": seed},
        "loss": {
            kind: {"first": _mean(part[:20]), "last": _mean(part[-20:])}
            for kind in ("words", "texts", "pairs")
            if (part := [loss for loss, step in zip(losses, steps, strict=True) if step.kind == kind])
        },
        "seconds": round(time.monotonic() - began),
        **(about or {}),
    }
    write(folder, student.config, student.weights(), card)
    checkpoint.path.unlink(missing_ok=True)
    return card


class _Student:
    """The lower layers, frozen, with low-rank matrices beside their linear maps, and the projection."""

    def __init__(self, model: Any, tokenizer: Any, options: EmbedderTraining) -> None:
        import torch

        self.config = AdapterConfig(
            hidden_size=int(model.config.hidden_size),
            layers=options.layers,
            dim=options.dim,
            rank=options.rank,
            alpha=2.0 * options.rank,
            attention=options.attention,
            max_tokens=options.max_tokens,
            lexical=options.lexical,
            spoken=options.spoken,
            tasks={str(task): reading for task, reading in options.tasks.items()},
        )
        self._tokenizer = tokenizer
        self._lower = lower_layers(model, options.layers, own=False)
        device = next(self._lower.parameters()).device
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self._matrices: dict[str, torch.nn.Parameter] = {}
        for name, linear in linear_layers(self._lower).items():
            inner = torch.randn(options.rank, linear.in_features, generator=generator) / math.sqrt(linear.in_features)
            down = torch.nn.Parameter(inner.to(device))
            up = torch.nn.Parameter(torch.zeros(linear.out_features, options.rank, device=device))
            self._matrices |= {f"{name}.down": down, f"{name}.up": up}
            linear.register_forward_hook(_beside(down, up, self.config.alpha / options.rank))
        self._cut = options.cut
        width = self.config.hidden_size
        start = torch.randn(width, options.dim, generator=generator) / math.sqrt(width)
        self._matrices[PROJECTION] = torch.nn.Parameter(start.to(device))
        self._matrices[OFFSET] = torch.nn.Parameter(torch.zeros(options.dim, device=device))
        if options.lexical:
            table = self._lower.get_input_embeddings().weight
            shapes = ((len(table),), (width,), (width, width))
            for name, shape in zip(LEXICAL, shapes, strict=True):
                trained = torch.nn.Parameter(torch.zeros(shape, device=device), requires_grad=name != LEXICAL[1])
                self._matrices[name] = trained

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        return list(self._matrices.values())

    @property
    def projecting(self) -> list[torch.nn.Parameter]:
        return [self._matrices[PROJECTION], self._matrices[OFFSET]]

    @property
    def beside(self) -> list[torch.nn.Parameter]:
        kept = (PROJECTION, OFFSET, *LEXICAL)
        return [weight for name, weight in self._matrices.items() if name not in kept]

    @property
    def lexical(self) -> LexicalMap:
        return LexicalMap(*(self._matrices[name] for name in LEXICAL))

    @property
    def lexical_rates(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """What of the lexical part is trained, and how fast: at ten times these rates it learns the pairs by heart."""
        if not self.config.lexical:
            return []
        return [([self._matrices[LEXICAL[0]]], 2e-2), ([self._matrices[LEXICAL[2]]], 2e-4)]

    def fit_lexical(self, texts: Sequence[str]) -> None:
        """Begin with whitened tokens, weighted by how rare they are."""
        tokens = (ids for text in texts for ids in self._tokens([text], "passage", "knowledge")[1])
        fitted = fit_lexical(self._lower.get_input_embeddings().weight, tokens)
        values = (fitted.log_weights, fitted.middle, fitted.whitening)
        self.load({**self.weights(), **dict(zip(LEXICAL, values, strict=True))})

    def words(self, texts: Sequence[str], kind: Kind, task: Task) -> torch.Tensor:
        """Lexical parts with gradients: float32, shape (n, hidden_size), rows of unit length."""
        return self.lexical.embed(self._lower.get_input_embeddings().weight, self._tokens(texts, kind, task)[1])

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in self._matrices.items()}

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._matrices.items():
                weight.copy_(weights[name])

    def embed(self, texts: Sequence[str], kind: Kind, task: Task) -> torch.Tensor:
        """Unit vectors of what the texts mean, without the lexical part, with gradients: float32, shape (n, dim)."""
        import torch

        projected = self.pooled(texts, kind, task) @ self._matrices[PROJECTION] + self._matrices[OFFSET]
        return torch.nn.functional.normalize(projected, dim=-1)

    def pooled(self, texts: Sequence[str], kind: Kind, task: Task) -> torch.Tensor:
        """What the projection reads: float32, shape (n, hidden_size)."""
        head, tokens = self._tokens(texts, kind, task)
        both = self.config.attention == "bidirectional"
        read = hidden_states(self._lower, [[*head, *text] for text in tokens], bidirectional=both)
        return mean_pooled(*read, head=len(head))

    def _tokens(self, texts: Sequence[str], kind: Kind, task: Task) -> tuple[list[int], list[list[int]]]:
        return self.config.tokens(self._tokenizer, texts, kind, task, cut=self._cut)

    def project(self, pooled: Vectors, wanted: Vectors) -> None:
        """Take the linear map that comes nearest to the wanted vectors; both with one row for each text."""
        mean, spread, middle = pooled.mean(axis=0), pooled.std(axis=0) + 1e-6, wanted.mean(axis=0)
        scaled = (pooled - mean) / spread
        # The penalty matters for a few hundred texts only; 100 was best of 10 to 1000 on texts left out.
        gram = scaled.T @ scaled + 100 * np.eye(scaled.shape[1], dtype=np.float32)
        linear = np.linalg.solve(gram, scaled.T @ (wanted - middle)) / spread[:, None]
        self.load(
            {
                **self.weights(),
                PROJECTION: _tensor(linear),
                OFFSET: _tensor(middle - mean @ linear),
            }
        )


def _tensor(values: Vectors) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _beside(down: torch.nn.Parameter, up: torch.nn.Parameter, scale: float) -> Callable[..., torch.Tensor]:
    def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        side = (inputs[0].float() @ down.T) @ up.T
        return output + (scale * side).to(output)

    return add


class _Learner:
    """What a step costs."""

    def __init__(
        self,
        student: _Student,
        pairs: Sequence[Pair],
        texts: Sequence[tuple[str, Kind]],
        teacher: Embedder | None,
        misheard: Misheard | None,
        generation: Generation | None,
        options: EmbedderTraining,
    ) -> None:
        self._student, self._pairs, self._texts = student, pairs, texts
        self._teacher, self._misheard, self._generation, self._options = teacher, misheard, generation, options

    def fit_lexical(self) -> None:
        """Begin with the tokens of all passages and sentences."""
        if self._options.lexical:
            passages = dict.fromkeys(pair.passage for pair in self._pairs)
            self._student.fit_lexical([*passages, *(text for text, kind in self._texts if kind == "passage")])

    def fit_projection(self, rng: random.Random, progress: Progress | None) -> None:
        """Begin near the teacher, if there is one."""
        import torch

        if self._teacher is None or not self._options.fitted:
            return
        chosen = rng.sample(self._texts, min(self._options.fitted, len(self._texts)))
        chosen.sort(key=lambda text: len(text[0]))
        pooled, wanted = [], []
        for at in range(0, len(chosen), self._options.texts):
            texts = [text for text, _ in chosen[at : at + self._options.texts]]
            with torch.inference_mode():
                pooled.append(self._student.pooled(texts, "passage", "knowledge").cpu().numpy())
            wanted.append(self._teacher.embed(texts, kind="passage"))
            if progress is not None:
                progress(at + len(texts), len(chosen), "fitting the projection")
        self._student.project(np.concatenate(pooled), np.concatenate(wanted))

    def loss(self, step: _Step, rng: random.Random) -> torch.Tensor:
        if step.kind == "words":
            return self._by_words(step.places, rng)
        return self._following(step.places, rng) if step.kind == "texts" else self._contrast(step.places, rng)

    def _by_words(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        chosen = [self._pairs[place] for place in places]
        task = chosen[0].task
        queries = self._student.words([self._heard(pair.query, rng) for pair in chosen], "query", task)
        answers = self._student.words([pair.passage for pair in chosen], "passage", task)
        return self._told_apart(queries, answers, self._equal(chosen))

    def _following(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        import torch

        chosen = [self._texts[place] for place in places]
        parts = []
        for kind in ("query", "passage"):
            meant = [text for text, of in chosen if of == kind]
            if meant:
                # A spoken sentence may be a query of the future, so all that is short is misheard at times.
                heard = [self._heard(text, rng) for text in meant]
                found = self._student.embed(heard, kind, rng.choice(tuple(self._options.tasks) or TASKS[:1]))
                parts.append((found * self._taught(meant, kind)).sum(-1))
        return (1 - torch.cat(parts)).mean()

    def _contrast(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        import torch

        chosen = [self._pairs[place] for place in places]
        asked, passages = [pair.query for pair in chosen], [pair.passage for pair in chosen]
        heard = [self._heard(text, rng) for text in asked]
        task = chosen[0].task
        queries = self._student.embed(heard, "query", task)
        answers = self._student.embed(passages, "passage", task)
        same = self._equal(chosen)
        follow: torch.Tensor | float = 0.0
        if self._teacher is not None:
            taught = self._taught(passages, "passage")
            same |= taught @ taught.T > self._options.same
            follow = (2 - (queries * self._taught(asked, "query")).sum(-1) - (answers * taught).sum(-1)).mean() / 2
        share = self._student.config.share(task)
        if share:
            with torch.no_grad():
                words = self._student.words(heard, "query", task), self._student.words(passages, "passage", task)
            queries, answers = both_parts(queries, words[0], share), both_parts(answers, words[1], share)
        cost = self._told_apart(queries, answers, same) + self._options.follow * follow
        if self._generation is not None and task == "knowledge":
            cost = cost + self._options.generation * self._as_generated(asked, passages, queries @ answers.T, same)
        return cost

    def _as_generated(
        self, asked: Sequence[str], passages: Sequence[str], scores: torch.Tensor, same: torch.Tensor
    ) -> torch.Tensor:
        """How far the order of the nearest passages is from how likely each makes the question (GRL, ULLME)."""
        import torch

        own = torch.eye(len(asked), dtype=torch.bool, device=scores.device)
        open_ = scores.masked_fill(same & ~own, -math.inf).masked_fill(own, math.inf)
        near = open_.topk(min(self._options.candidates, len(passages)), dim=1).indices
        assert self._generation is not None
        pairs = [(asked[row], passages[place]) for row, places in enumerate(near.tolist()) for place in places]
        told = torch.tensor(self._generation(pairs), device=scores.device).reshape(near.shape)
        there = ~(same & ~own).gather(1, near)  # of few passages, some may be no wrong ones
        told = told.masked_fill(~there, -math.inf).softmax(1)
        found = (scores.gather(1, near) / self._options.temperature).masked_fill(~there, -1e4).log_softmax(1)
        return torch.nn.functional.kl_div(found, told, reduction="batchmean")

    def _equal(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Which of the passages are one: bool, shape (n, n)."""
        import torch

        groups = [pair.group or pair.passage for pair in pairs]
        same = [[one == other for other in groups] for one in groups]
        return torch.tensor(same, device=self._student.trained[0].device)

    def _told_apart(self, queries: torch.Tensor, answers: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        """InfoNCE both ways; what is the same as the right one is not held against it."""
        import torch

        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        scores = (queries @ answers.T / self._options.temperature).masked_fill(same & ~own, -math.inf)
        target = torch.arange(len(queries), device=queries.device)
        entropy = torch.nn.functional.cross_entropy
        return (entropy(scores, target) + entropy(scores.T, target)) / 2

    def _heard(self, text: str, rng: random.Random) -> str:
        if self._misheard is None or len(text) > 200 or rng.random() >= self._options.misheard:
            return text
        return self._misheard(text, rng) or text

    def _taught(self, texts: Sequence[str], kind: Kind) -> torch.Tensor:
        import torch

        assert self._teacher is not None
        vectors: Vectors = self._teacher.embed(texts, kind=kind)
        return torch.from_numpy(np.array(vectors)).to(self._student.trained[0].device)


class _Checkpoint:
    """Where a run that is broken off goes on; written aside and renamed."""

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run

    def save(self, student: _Student, optimizer: Any, schedule: Any, losses: Sequence[float]) -> None:
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "run": self._run,
            "weights": student.weights(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "losses": list(losses),
        }
        aside = self.path.with_suffix(".new")
        torch.save(state, aside)
        aside.replace(self.path)

    def load(self, student: _Student, optimizer: Any, schedule: Any) -> list[float]:
        """Losses of the steps that are done."""
        import torch

        if not self.path.exists():
            return []
        state = torch.load(self.path, weights_only=True)
        if state.get("run") != self._run:
            raise EmbeddingError(
                f"{self.path} is of a run with other data or settings: take it away, or write to another folder."
            )
        student.load(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        logger.info("going on from step %d of %s", len(state["losses"]), self.path)
        return list(state["losses"])


def _all_texts(pairs: Sequence[Pair], texts: Sequence[str]) -> list[tuple[str, Kind]]:
    """Everything that a teacher can place: questions, and texts of every other kind, in that order."""
    asked: list[tuple[str, Kind]] = [(query, "query") for query in dict.fromkeys(pair.query for pair in pairs)]
    return asked + [(text, "passage") for text in texts]


def _sizes(pairs: Sequence[Pair], texts: Sequence[str]) -> list[int]:
    return [len(text) for text, _ in _all_texts(pairs, texts)]


def _plan(
    pairs: Sequence[Pair], sizes: Sequence[int], options: EmbedderTraining, seed: int, *, followed: bool
) -> list[_Step]:
    """All steps of a run, the cheap ones first."""
    rng = random.Random(seed)
    text_steps = options.text_steps if followed else 0
    word_steps = options.word_steps if options.lexical else 0
    if text_steps and len(sizes) < options.texts:
        raise LoadingError(f"{len(sizes)} texts do not fill a step of {options.texts}: give more.")
    by_task = {task: [place for place, pair in enumerate(pairs) if pair.task == task] for task in TASKS}
    by_task = {task: places for task, places in by_task.items() if len(places) >= options.pairs}
    if (options.pair_steps or word_steps) and not by_task:
        raise LoadingError(f"{len(pairs)} pairs do not fill a step of {options.pairs}: give more.")
    if not text_steps and not options.pair_steps:
        raise LoadingError("Without a teacher there are only steps of pairs: set pair_steps, or name a teacher.")

    def mixed_texts() -> list[int]:
        order = list(range(len(sizes)))
        rng.shuffle(order)
        groups = [order[at : at + options.texts * _MIXED] for at in range(0, len(order), options.texts * _MIXED)]
        return [place for group in groups for place in sorted(group, key=sizes.__getitem__)]

    def mixed_pairs(places: Sequence[int]) -> Callable[[], list[int]]:
        turns = [places[at] for at in _turns([pairs[place] for place in places])]

        def epoch() -> list[int]:
            blocks = [turns[at : at + _NEIGHBOURS] for at in range(0, len(turns), _NEIGHBOURS)]
            rng.shuffle(blocks)
            return [place for block in blocks for place in block]

        return epoch

    def of_tasks(kind: Literal["words", "pairs"], total: int, size: int) -> list[_Step]:
        """Steps each of one task, half of them of the first one."""
        found = []
        left = total
        for number, (task, places) in enumerate(by_task.items()):
            others = len(by_task) - number - 1
            count = left if not others else left // 2 if not number else left // (others + 1)
            left -= count
            batches = _drawn(count, min(size, len(places)), mixed_pairs(by_task[task]), rng)
            found += [_Step(kind, batch) for batch in batches]
        if len(by_task) > 1:
            rng.shuffle(found)
        return found

    steps = of_tasks("words", word_steps, options.word_pairs)
    steps += [_Step("texts", places) for places in _drawn(text_steps, options.texts, mixed_texts, rng)]
    return steps + of_tasks("pairs", options.pair_steps, options.pairs)


def _turns(pairs: Sequence[Pair]) -> list[int]:
    """Places of all pairs: the first question of each passage in the order of the data, then the second of each.

    Neighbours are then about different passages of one document, where data comes document by document, and such
    passages are the hardest to tell apart.
    """
    before: Counter[str] = Counter()
    turn = []
    for pair in pairs:
        turn.append(before[pair.passage])
        before[pair.passage] += 1
    return sorted(range(len(pairs)), key=turn.__getitem__)


def _drawn(steps: int, size: int, epoch: Callable[[], Sequence[int]], rng: random.Random) -> Iterator[tuple[int, ...]]:
    """Batches of places, epoch after epoch, in random order."""
    while steps > 0:
        places = epoch()
        batches = [tuple(places[at : at + size]) for at in range(0, len(places) - size + 1, size)]
        rng.shuffle(batches)
        yield from batches[:steps]
        steps -= len(batches)


def _warm_then_falling(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first twentieth, then down along half a cosine."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / max(1, len(values)), 4)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:16]
