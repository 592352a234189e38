"""Trains an embedding adapter: what belongs together moves together, and a teacher shows where all of it belongs."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from vivavoce.retrieval.embedding.adapter import write
from vivavoce.retrieval.embedding.embedder import Embedder
from vivavoce.retrieval.embedding.identity import model_name, weights_digest
from vivavoce.retrieval.embedding.likelihood import question_log_likelihoods
from vivavoce.retrieval.errors import EmbeddingError

from ..checkpoint import Checkpoint, Run
from ..weights import Progress
from .descent import Descent, first_and_last
from .plan import EmbedderTrainingOptions, Mishear, Pair, all_texts, plan_steps, text_sizes
from .student import Objective, Student


def train_embedder(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    texts: Sequence[str],
    out: str | Path,
    *,
    teacher: Embedder | None = None,
    misheard: Mishear | None = None,
    options: EmbedderTrainingOptions | None = None,
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
        EmbeddingError: If the model has too few layers.
        ConfigError: If the checkpoint is damaged, or of another run.
    """
    import torch

    options = options or EmbedderTrainingOptions()
    if teacher is not None and teacher.dim != options.dim:
        raise EmbeddingError(
            f"The teacher's vectors have {teacher.dim} dimensions, not {options.dim}: set dim to that."
        )
    steps = plan_steps(pairs, text_sizes(pairs, texts), options, seed, followed=teacher is not None)
    torch.manual_seed(seed)
    student = Student(model, tokenizer, options)
    generation = None
    if options.generation:
        generation = partial(question_log_likelihoods, model, tokenizer, max_tokens=options.train_tokens)
    objective = Objective(student, list(pairs), all_texts(pairs, texts), teacher, misheard, generation, options)
    optimizer = torch.optim.AdamW(
        [
            {"params": student.lora, "lr": options.learning_rate},
            {"params": student.projection, "lr": options.learning_rate / 5},  # it begins near its goal
            *({"params": part, "lr": rate, "weight_decay": 0.0} for part, rate in student.lexical_rates),
        ],
        weight_decay=0.01,
    )
    folder = Path(out)
    settings = {
        **asdict(options),
        "teacher": teacher.fingerprint if teacher else None,
        "misheard": misheard is not None,
    }
    run = Run.of(chain(pairs, texts), settings, weights_digest(model), seed)
    checkpoint = Checkpoint(folder / "checkpoint.pt", run)
    descent = Descent(
        student.parameters, optimizer, checkpoint, steps=len(steps), warmup=0.05, save_every=options.save_every
    )
    began = time.monotonic()
    if not descent.done:
        objective.fit_lexical()
        objective.fit_projection(random.Random(seed), progress)
    for number, step in enumerate(steps[descent.done :], start=descent.done + 1):
        descent.step(objective.loss(step, random.Random(f"{seed} {number}")))
        if progress is not None:
            progress(number, len(steps), f"{step.kind}, loss {descent.recent_loss:.3f}")
    card = {
        "what": "LoRA adapter: text embeddings from the lower layers of a language model",
        "base": model_name(getattr(model.config, "name_or_path", "")),
        "teacher": teacher.name if teacher else None,
        "pairs": len(pairs),
        "texts": len(texts),
        "settings": {**asdict(options), "seed": seed},
        "loss": {
            kind: first_and_last(part)
            for kind in ("words", "texts", "pairs")
            if (part := [loss for loss, step in zip(descent.losses, steps, strict=True) if step.kind == kind])
        },
        "seconds": round(time.monotonic() - began),
        **(about or {}),
    }
    write(folder, student.config, student.weights(), card)
    checkpoint.remove()
    return card
