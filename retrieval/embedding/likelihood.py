"""Query likelihood: how probable a language model finds a question after a passage (Sachan et al. 2022, UPR).

Nothing is generated, and no training is needed (https://arxiv.org/abs/2204.07496).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .llm import hidden_states, like_lengths


def question_log_likelihoods(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, max_tokens: int = 160, batch_tokens: int = 2048
) -> list[float]:
    """Mean log-probability of each question's tokens behind a passage, in nats; 0 for a question without any.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        pairs: Questions, each with a passage.
        max_tokens: What is read of a passage.
        batch_tokens: How many tokens, padding included, go through the model at once.
    """
    if not pairs:
        return []
    truncated = {text: first_tokens(tokenizer, text, max_tokens) for text in {passage for _, passage in pairs}}
    prompts = tokenizer(
        [f"Passage: {truncated[text]}\nQuestion about it:" for _, text in pairs], add_special_tokens=False
    )
    targets = tokenizer([f" {question}" for question, _ in pairs], add_special_tokens=False)
    heads, tails = prompts.input_ids, targets.input_ids
    means = [0.0] * len(pairs)
    for batch in like_lengths([len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)], batch_tokens):
        values = _forward(model, [heads[position] for position in batch], [tails[position] for position in batch])
        for position, value in zip(batch, values, strict=True):
            means[position] = value
    return means


def _forward(model: Any, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> list[float]:
    import torch

    with torch.inference_mode():
        texts = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
        states, _ = hidden_states(model.get_decoder(), texts, bidirectional=False)
        rows = [row for row, tail in enumerate(tails) for _ in tail]
        predicting = [len(head) - 1 + at for head, tail in zip(heads, tails, strict=True) for at in range(len(tail))]
        # Logits for the questions alone: those of the passages would cost more than reading them.
        logits = model.get_output_embeddings()(states[rows, predicting].to(model.dtype))
        targets = torch.tensor([token for tail in tails for token in tail], device=logits.device)
        log_probs = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return [float(part.mean()) if len(part) else 0.0 for part in log_probs.split([len(tail) for tail in tails])]


def first_tokens(tokenizer: Any, text: str, tokens: int) -> str:
    """The first tokens of a text, decoded into one line."""
    ids = tokenizer(" ".join(text.split()), add_special_tokens=False).input_ids
    return str(tokenizer.decode(ids[:tokens]))
