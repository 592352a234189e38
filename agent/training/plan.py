"""What an embedding adapter is trained on, and in which order: pairs, options, steps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vivavoce.retrieval.embedding.adapter import TASKS, Attention, Reading, Task
from vivavoce.retrieval.embedding.embedder import Kind
from vivavoce.retrieval.errors import LoadingError

Mishear = Callable[[str, random.Random], str]
"""Writes a text as a recogniser might have understood it."""

QuestionLikelihoods = Callable[[Sequence[tuple[str, str]]], list[float]]
"""For pairs of question and passage, the log-probability of the question behind the passage, in nats."""

TASK_INSTRUCTIONS: Mapping[Task, Reading] = {
    "knowledge": Reading("Find a passage that answers this question:"),
    "memory": Reading("Find what was said earlier that answers this:"),
    "tool": Reading("Find the tool that does this:", 0.3),
    "example": Reading("Find a request that means the same:", 0.3),
}
"""What `vivavoce train embedder` puts before the queries of each task, and how much the lexical part counts there."""

_MIXED = 64
"""Batches whose texts are sorted by length together."""
_NEIGHBOURS = 4
"""Pairs that stay together when pairs are shuffled."""


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
class EmbedderTrainingOptions:
    """How an embedding adapter is trained.

    Attributes:
        layers: How many of the model's first layers are read.
        rank: Of the LoRA matrices; they are scaled by 2.
        dim: Length of the part of the vectors that is pooled from hidden states; with a teacher its own.
        attention: See `AdapterConfig`.
        max_tokens: Longer texts are cut to this whenever the adapter is used.
        train_tokens: Longer texts are cut to this while training.
        lexical: How much of a cosine the lexical part decides (see `AdapterConfig`); with 0 there is none.
        spoken: Whether all texts are read in lower case, without marks.
        tasks: Instructions, and shares of the lexical part, for single tasks.
        texts: Texts in a distillation step, which only follows the teacher.
        pairs: Pairs in a contrastive step, which tells passages apart.
        word_pairs: Pairs in a lexical step, which tells passages apart by their words alone.
        projection_texts: Texts that the projection is fitted to before the first step; 0 leaves it random.
        word_steps: Lexical steps; they come first, and only they change the lexical part.
        text_steps: Distillation steps; they come next.
        pair_steps: Contrastive steps; they come last.
        temperature: Of the contrastive loss.
        misheard: Share of the queries that are read as a recogniser might have written them.
        distillation: Weight of following the teacher in contrastive steps.
        generation: Weight of the generation score: passages that make a question likely, by the whole language model,
            are to be near it (GRL of ULLME, Man et al. 2024, https://arxiv.org/abs/2408.03402); 0 for none. The whole
            model reads every question with each of some passages, which wants a GPU.
        candidates: Passages that each question is read with for the generation score.
        duplicate_cosine: Passages whose teacher vectors are closer than this are no negatives for each other's
            questions.
        learning_rate: At its highest, after a twentieth of the steps.
        save_every: Steps between two checkpoints.
    """

    layers: int = 4
    rank: int = 32
    dim: int = 384
    attention: Attention = "bidirectional"
    max_tokens: int = 256
    train_tokens: int = 160
    lexical: float = 0.7
    spoken: bool = True
    tasks: Mapping[Task, Reading] = field(default_factory=dict, hash=False)
    texts: int = 64
    pairs: int = 24
    word_pairs: int = 256
    projection_texts: int = 3000
    word_steps: int = 100
    text_steps: int = 400
    pair_steps: int = 400
    temperature: float = 0.05
    misheard: float = 0.5
    distillation: float = 2.0
    generation: float = 0.0
    candidates: int = 4
    duplicate_cosine: float = 0.9
    learning_rate: float = 1e-3
    save_every: int = 25

    def __post_init__(self) -> None:
        for name in (
            "layers",
            "rank",
            "dim",
            "max_tokens",
            "train_tokens",
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
class Step:
    """A batch.

    Attributes:
        kind: `words` (lexical), `texts` (distillation) or `pairs` (contrastive).
        places: Of its pairs or texts in the data.
    """

    kind: Literal["words", "texts", "pairs"]
    places: tuple[int, ...]


def plan_steps(
    pairs: Sequence[Pair], sizes: Sequence[int], options: EmbedderTrainingOptions, seed: int, *, followed: bool
) -> list[Step]:
    """All steps of a run: lexical, then distillation, then contrastive ones.

    Args:
        pairs: Of questions and passages.
        sizes: Length of each text of `all_texts`, in characters.
        options: How many steps of which size.
        seed: Of the order.
        followed: Whether there is a teacher; without one there are no distillation steps.

    Raises:
        LoadingError: If there are too few pairs or texts for one step.
    """
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

    def of_tasks(kind: Literal["words", "pairs"], total: int, size: int) -> list[Step]:
        """Steps each of one task, half of them of the first one."""
        steps = []
        left = total
        for number, (task, places) in enumerate(by_task.items()):
            others = len(by_task) - number - 1
            count = left if not others else left // 2 if not number else left // (others + 1)
            left -= count
            batches = _drawn(count, min(size, len(places)), mixed_pairs(by_task[task]), rng)
            steps += [Step(kind, batch) for batch in batches]
        if len(by_task) > 1:
            rng.shuffle(steps)
        return steps

    steps = of_tasks("words", word_steps, options.word_pairs)
    steps += [Step("texts", places) for places in _drawn(text_steps, options.texts, mixed_texts, rng)]
    return steps + of_tasks("pairs", options.pair_steps, options.pairs)


def all_texts(pairs: Sequence[Pair], texts: Sequence[str]) -> list[tuple[str, Kind]]:
    """Everything that a teacher can place: questions, and texts of every other kind, in that order."""
    queries: list[tuple[str, Kind]] = [(query, "query") for query in dict.fromkeys(pair.query for pair in pairs)]
    return queries + [(text, "passage") for text in texts]


def text_sizes(pairs: Sequence[Pair], texts: Sequence[str]) -> list[int]:
    """How long every text is, in characters."""
    return [len(text) for text, _ in all_texts(pairs, texts)]


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
