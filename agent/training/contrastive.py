"""Trains an embedding adapter: what belongs together moves together, and a teacher shows where all of it belongs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from vivavoce.retrieval.embedding.adapter import (
    write,
)
from vivavoce.retrieval.embedding.embedder import Embedder
from vivavoce.retrieval.embedding.identity import model_name
from vivavoce.retrieval.embedding.likelihood import question_log_likelihoods
from vivavoce.retrieval.errors import EmbeddingError

from ..weights import Progress
from .plan import EmbedderTraining, Misheard, Pair, all_texts, plan_steps, text_sizes
from .student import Learner, Student

logger = logging.getLogger(__name__)


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
    steps = plan_steps(pairs, text_sizes(pairs, texts), options, seed, followed=teacher is not None)
    torch.manual_seed(seed)
    student = Student(model, tokenizer, options)
    generation = None
    if options.generation:
        generation = partial(question_log_likelihoods, model, tokenizer, max_tokens=options.cut)
    learner = Learner(student, list(pairs), all_texts(pairs, texts), teacher, misheard, generation, options)
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
        "base": model_name(getattr(model.config, "name_or_path", "")),
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


class _Checkpoint:
    """Where a run that is broken off goes on; written aside and renamed."""

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run

    def save(self, student: Student, optimizer: Any, schedule: Any, losses: Sequence[float]) -> None:
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

    def load(self, student: Student, optimizer: Any, schedule: Any) -> list[float]:
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
