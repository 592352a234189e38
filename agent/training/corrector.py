"""Trains the language model to tell what was said from what it sounds like: a small adapter, on lists of hypotheses."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivavoce.retrieval.embedding.identity import model_name, weights_digest
from vivavoce.speech import normalizer
from vivavoce.speech.lists.choosing import sentence

from .. import weights
from ..checkpoint import Checkpoint, Run
from ..errors import ConfigError
from ..evaluation.rows import read_rows
from ..model.chat import Device
from .descent import Descent, first_and_last

_CANDIDATES = 3
"""Readings of one list that are compared: the transcript, and the first hypotheses that differ from it."""
_WEIGHT = 0.5
"""Of the language model against the recogniser's order, as it is when lists are rescored."""
_RANK = 0.4
"""Nats that a hypothesis loses with every place in its list."""
_SHARPNESS = 2.0
"""Nats that a reading loses with every word error, in the distribution that is aimed at."""
_PLAIN = 0.1
"""Weight, in the loss, of plain language modelling of the transcript: it keeps the model what it was."""
_MIXED = 200
"""Lists that are sorted by length together."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How the adapter is trained.

    Attributes:
        rank: Of the LoRA matrices (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
        layers: How many of the last layers get them; the others need no backward pass.
        learning_rate: At its highest, after a tenth of the steps.
        tokens: How many tokens one step reads, roughly.
        epochs: Passes over the data.
        save_every: Steps between two checkpoints, from which a run that was broken off goes on.
    """

    rank: int = 8
    layers: int = 15
    learning_rate: float = 2e-4
    tokens: int = 640
    epochs: int = 1
    save_every: int = 25

    def __post_init__(self) -> None:
        for name in ("rank", "layers", "tokens", "epochs", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}", stage="train")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate}", stage="train")


@dataclass(frozen=True, slots=True)
class RankedReadings:
    """Readings of one utterance that the model compares.

    Attributes:
        texts: As they are scored; the first is the transcript.
        errors: Words wrong in each.
        ranks: Place of each in the list; the transcript, if it is not in it, takes the first.
    """

    texts: tuple[str, ...]
    errors: tuple[int, ...]
    ranks: tuple[int, ...]


def train_corrector(
    data: Sequence[Path],
    out: Path,
    *,
    model: str = "smollm2-135m-instruct",
    options: TrainingOptions | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: weights.Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune a LoRA adapter so that the model's log-probability ranks what was said above what was misheard.

    Discriminative language modelling: softmax over a list's readings of LM log-probability and rank, against a
    distribution that falls with the number of wrong words (the loss of RescoreBERT, Xu et al. 2022,
    https://arxiv.org/abs/2202.01094, with soft targets).

    Args:
        data: Files of ``{hypotheses: [str], text}``, one JSON object a line, gzipped or not.
        out: Where the adapter goes, in PEFT's format, with its card; a run that was broken off goes on from its
            checkpoint there.
        model: Name of the registry, or folder.
        options: How it is trained.
        limit: At most so many lists of each file, drawn at random.
        seed: Of the order and of the matrices.
        device: Where it runs.
        progress: Called with steps done and in all.

    Returns:
        The card: data, settings, figures.

    Raises:
        ConfigError: If a file has another form, too few lists differ from what was said, or the checkpoint is damaged
            or of another run.
    """
    import torch

    options = options or TrainingOptions()
    rng = random.Random(seed)
    files = [_read(path) for path in data]
    lists = [ranked for listed in files for ranked in _sampled(listed, limit, rng)]
    if len(lists) < 50:
        raise ConfigError(
            f"only {len(lists)} lists hold a reading that differs from what was said: give at least 50", stage="train"
        )
    torch.manual_seed(seed)
    tokenizer, adapted, base = _adapted(model, options, device)
    steps = [step for _ in range(options.epochs) for step in _steps(lists, options.tokens, rng)]
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    everything = (ranked for listed in files for ranked in listed)
    checkpoint = Checkpoint(out / "checkpoint.pt", Run.of(everything, {**asdict(options), "limit": limit}, base, seed))
    descent = Descent(
        trained,
        torch.optim.AdamW(trained.values(), lr=options.learning_rate, weight_decay=0.0),
        checkpoint,
        steps=len(steps),
        warmup=0.1,
        save_every=options.save_every,
    )
    began = time.monotonic()
    for step in steps[descent.done :]:
        descent.step(_loss(adapted, tokenizer, step))
        if progress is not None:
            progress(descent.done, len(steps), f"loss {descent.recent_loss:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    adapted.save_pretrained(str(out))
    card = {
        "what": "LoRA adapter: ranks what was said above what it sounds like",
        "base": model_name(model),
        "data": [path.name for path in data],
        "lists": len(lists),
        "settings": {
            "rank": options.rank,
            "layers": options.layers,
            "learning_rate": options.learning_rate,
            "tokens": options.tokens,
            "epochs": options.epochs,
            "limit": limit,
            "seed": seed,
        },
        "loss": first_and_last(descent.losses),
        "seconds": round(time.monotonic() - began),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    checkpoint.remove()
    return card


def ranked_readings(hypotheses: Sequence[str], text: str) -> RankedReadings | None:
    """What is compared of one list; None if everything in it says the same as the transcript."""
    from rapidfuzz.distance import Levenshtein

    normalize = normalizer("en")
    said = normalize(text)
    first: dict[str, int] = {}
    for rank, hypothesis in enumerate(hypotheses):
        first.setdefault(normalize(hypothesis), rank)
    others = [(words, rank) for words, rank in first.items() if words and words != said][: _CANDIDATES - 1]
    if not said or not others:
        return None
    return RankedReadings(
        (sentence(text), *(sentence(hypotheses[rank]) for _, rank in others)),
        (0, *(Levenshtein.distance(words.split(), said.split()) for words, _ in others)),
        (first.get(said, 0), *(rank for _, rank in others)),
    )


def _read(path: Path) -> list[RankedReadings]:
    listed = []
    for row in read_rows(path, ("hypotheses", "text")):
        ranked = ranked_readings([str(text) for text in row["hypotheses"]], str(row["text"]))
        if ranked is not None:
            listed.append(ranked)
    return listed


def _sampled(listed: Sequence[RankedReadings], limit: int | None, rng: random.Random) -> list[RankedReadings]:
    shuffled = list(listed)
    rng.shuffle(shuffled)
    return shuffled[:limit]


def _steps(lists: Sequence[RankedReadings], tokens: int, rng: random.Random) -> list[list[RankedReadings]]:
    """One epoch in random order, in steps of about so many tokens; lists of a step are about equally long."""
    order = list(lists)
    rng.shuffle(order)
    steps: list[list[RankedReadings]] = []
    for at in range(0, len(order), _MIXED):
        step: list[RankedReadings] = []
        size = 0
        for ranked in sorted(order[at : at + _MIXED], key=lambda ranked: len(ranked.texts[0])):
            step.append(ranked)
            size += sum(len(text) // 4 + 2 for text in ranked.texts)
            if size >= tokens:
                steps.append(step)
                step, size = [], 0
        if step:
            steps.append(step)
    rng.shuffle(steps)
    return steps


def _loss(adapted: Any, tokenizer: Any, step: Sequence[RankedReadings]) -> Any:
    import torch

    device = next(adapted.parameters()).device
    lines = [tokenizer(text + "\n", add_special_tokens=False).input_ids for ranked in step for text in ranked.texts]
    width = max(map(len, lines))
    start = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.bos_token_id
    targets = torch.tensor([line + [0] * (width - len(line)) for line in lines], device=device)
    kept = torch.tensor([[1.0] * len(line) + [0.0] * (width - len(line)) for line in lines], device=device)
    inputs = torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], dim=1)
    logits = adapted(input_ids=inputs, use_cache=False).logits.float()
    language = (-torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * kept).sum(-1)
    losses = []
    for ranked, scores, length in _split(step, language, kept.sum(-1)):
        ranks = torch.tensor(ranked.ranks, dtype=torch.float32, device=device)
        errors = torch.tensor(ranked.errors, dtype=torch.float32, device=device)
        wanted = (-_SHARPNESS * errors).softmax(-1)
        chosen = (_WEIGHT * scores - _RANK * ranks).log_softmax(-1)
        losses.append(-(wanted * chosen).sum() - _PLAIN * scores[0] / length[0])
    return torch.stack(losses).mean()


def _split(step: Sequence[RankedReadings], *columns: Any) -> Iterator[Any]:
    """Each list with its rows of the batch."""
    at = 0
    for ranked in step:
        end = at + len(ranked.texts)
        yield ranked, *(column[at:end] for column in columns)
        at = end


def _adapted(model: str, options: TrainingOptions, device: Device) -> tuple[Any, Any, str]:
    """Tokenizer, the frozen model with trainable matrices in its last layers, and the digest of its own weights."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("Training the corrector needs the package peft: pip install 'vivavoce[train]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..model.local import pick_device, pick_dtype

    folder = str(weights.resolve(model))
    where = pick_device(device)
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=pick_dtype("auto", where), local_files_only=True)
    digest, depth = weights_digest(base), int(base.config.num_hidden_layers)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(max(0, depth - options.layers), depth)),
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(base.to(where), config)  # the matrices are float32, whatever the base is
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), adapted.train(), digest
