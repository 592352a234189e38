"""The model that learns to embed, and the losses that it learns from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vivavoce.retrieval.embedding.adapter import (
    LEXICAL,
    OFFSET,
    PROJECTION,
    TASKS,
    AdapterConfig,
    Task,
    both_parts,
    linear_layers,
    lower_layers,
)
from vivavoce.retrieval.embedding.embedder import Embedder, Kind, Vectors
from vivavoce.retrieval.embedding.lexical import LexicalMap, fit_lexical
from vivavoce.retrieval.embedding.llm import hidden_states, mean_pooled

from ..weights import Progress
from .plan import EmbedderTrainingOptions, Mishear, Pair, QuestionLikelihoods, Step

if TYPE_CHECKING:
    import torch


class Student:
    """The lower layers, frozen, with low-rank matrices beside their linear maps, and the projection."""

    def __init__(self, model: Any, tokenizer: Any, options: EmbedderTrainingOptions) -> None:
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
            linear.register_forward_hook(_add_lora(down, up, self.config.alpha / options.rank))
        self._cut = options.train_tokens
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
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """All weights that an adapter holds, by name."""
        return self._matrices

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._matrices[PROJECTION].device

    @property
    def projection(self) -> list[torch.nn.Parameter]:
        """The projection and its offset."""
        return [self._matrices[PROJECTION], self._matrices[OFFSET]]

    @property
    def lora(self) -> list[torch.nn.Parameter]:
        """The LoRA matrices."""
        kept = (PROJECTION, OFFSET, *LEXICAL)
        return [weight for name, weight in self._matrices.items() if name not in kept]

    @property
    def lexical(self) -> LexicalMap:
        """The lexical part as it is now."""
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
        """The trained weights by name, without gradients."""
        return {name: weight.detach() for name, weight in self._matrices.items()}

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the values of trained weights, by name."""
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


class Objective:
    """The loss of a step: contrastive, lexical, or distance to the teacher."""

    def __init__(
        self,
        student: Student,
        pairs: Sequence[Pair],
        texts: Sequence[tuple[str, Kind]],
        teacher: Embedder | None,
        misheard: Mishear | None,
        generation: QuestionLikelihoods | None,
        options: EmbedderTrainingOptions,
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

        if self._teacher is None or not self._options.projection_texts:
            return
        chosen = rng.sample(self._texts, min(self._options.projection_texts, len(self._texts)))
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

    def loss(self, step: Step, rng: random.Random) -> torch.Tensor:
        """The loss of a step; scalar."""
        if step.kind == "words":
            return self._lexical_loss(step.places, rng)
        if step.kind == "texts":
            return self._distillation_loss(step.places, rng)
        return self._contrastive_loss(step.places, rng)

    def _lexical_loss(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        chosen = [self._pairs[place] for place in places]
        task = chosen[0].task
        queries = self._student.words([self._maybe_misheard(pair.query, rng) for pair in chosen], "query", task)
        answers = self._student.words([pair.passage for pair in chosen], "passage", task)
        return self._info_nce(queries, answers, self._same_group(chosen))

    def _distillation_loss(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        import torch

        chosen = [self._texts[place] for place in places]
        parts = []
        for kind in ("query", "passage"):
            meant = [text for text, of in chosen if of == kind]
            if meant:
                # A spoken sentence may be a query of the future, so all that is short is misheard at times.
                heard = [self._maybe_misheard(text, rng) for text in meant]
                found = self._student.embed(heard, kind, rng.choice(tuple(self._options.tasks) or TASKS[:1]))
                parts.append((found * self._teacher_vectors(meant, kind)).sum(-1))
        return (1 - torch.cat(parts)).mean()

    def _contrastive_loss(self, places: Sequence[int], rng: random.Random) -> torch.Tensor:
        import torch

        chosen = [self._pairs[place] for place in places]
        asked, passages = [pair.query for pair in chosen], [pair.passage for pair in chosen]
        heard = [self._maybe_misheard(text, rng) for text in asked]
        task = chosen[0].task
        queries = self._student.embed(heard, "query", task)
        answers = self._student.embed(passages, "passage", task)
        same = self._same_group(chosen)
        distance: torch.Tensor | float = 0.0
        if self._teacher is not None:
            of_queries, of_passages = self._teacher_vectors(asked, "query"), self._teacher_vectors(passages, "passage")
            same |= of_passages @ of_passages.T > self._options.duplicate_cosine
            distance = (2 - (queries * of_queries).sum(-1) - (answers * of_passages).sum(-1)).mean() / 2
        share = self._student.config.share(task)
        if share:
            with torch.no_grad():
                words = self._student.words(heard, "query", task), self._student.words(passages, "passage", task)
            queries, answers = both_parts(queries, words[0], share), both_parts(answers, words[1], share)
        cost = self._info_nce(queries, answers, same) + self._options.distillation * distance
        if self._generation is not None and task == "knowledge":
            cost = cost + self._options.generation * self._generation_loss(asked, passages, queries @ answers.T, same)
        return cost

    def _generation_loss(
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

    def _same_group(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Which of the passages are one: bool, shape (n, n)."""
        import torch

        groups = [pair.group or pair.passage for pair in pairs]
        same = [[one == other for other in groups] for one in groups]
        return torch.tensor(same, device=self._student.device)

    def _info_nce(self, queries: torch.Tensor, answers: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        """InfoNCE both ways; what is the same as the right one is not held against it."""
        import torch

        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        scores = (queries @ answers.T / self._options.temperature).masked_fill(same & ~own, -math.inf)
        target = torch.arange(len(queries), device=queries.device)
        entropy = torch.nn.functional.cross_entropy
        return (entropy(scores, target) + entropy(scores.T, target)) / 2

    def _maybe_misheard(self, text: str, rng: random.Random) -> str:
        if self._misheard is None or len(text) > 200 or rng.random() >= self._options.misheard:
            return text
        return self._misheard(text, rng) or text

    def _teacher_vectors(self, texts: Sequence[str], kind: Kind) -> torch.Tensor:
        import torch

        assert self._teacher is not None
        vectors: Vectors = self._teacher.embed(texts, kind=kind)
        return torch.from_numpy(np.array(vectors)).to(self._student.device)


def _tensor(values: Vectors) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _add_lora(down: torch.nn.Parameter, up: torch.nn.Parameter, scale: float) -> Callable[..., torch.Tensor]:
    def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        side = (inputs[0].float() @ down.T) @ up.T
        return output + (scale * side).to(output)

    return add
