"""Gradient descent that goes on where it was broken off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

_RECENT = 20
"""Steps over which a loss is averaged before it is shown."""


class Descent:
    """Takes the steps of a run, one loss at a time, and saves every so many of them.

    Weights, optimizer, learning rate schedule, torch's random state and the losses so far are in the checkpoint: a run
    that is broken off ends as one in a piece does.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        checkpoint: Checkpoint,
        *,
        steps: int,
        warmup: float,
        save_every: int,
    ) -> None:
        """Begin, or go on from the checkpoint.

        Args:
            weights: All that is trained, by name.
            optimizer: Over these weights.
            checkpoint: Where the run leaves its state.
            steps: How many there are in all.
            warmup: See `warmup_cosine`.
            save_every: Steps between two checkpoints.

        Raises:
            ConfigError: If the checkpoint is damaged, or of another run.
        """
        import torch

        self.losses: list[float] = []
        """Of the steps that are done."""
        self._weights, self._optimizer, self._checkpoint = weights, optimizer, checkpoint
        self._save_every = save_every
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, steps, warmup=warmup)
        )
        state = checkpoint.load()
        if state is not None:
            self._restore(state)

    @property
    def done(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    @property
    def recent_loss(self) -> float:
        """Mean loss of the last steps."""
        return mean_loss(self.losses[-_RECENT:])

    def step(self, loss: torch.Tensor) -> None:
        """Follow the gradient of a loss, with its norm clipped to 1.

        Args:
            loss: Scalar.

        Raises:
            ConfigError: If the checkpoint cannot be written.
        """
        import torch

        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._weights.values()), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.losses.append(float(loss.detach()))
        if self.done % self._save_every == 0:
            self._save()

    def _save(self) -> None:
        import torch

        device = next(iter(self._weights.values())).device
        self._checkpoint.save(
            {
                "weights": {name: weight.detach() for name, weight in self._weights.items()},
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "losses": self.losses,
            }
        )

    def _restore(self, state: Mapping[str, Any]) -> None:
        import torch

        device = next(iter(self._weights.values())).device
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)
        self.losses = list(state["losses"])


def warmup_cosine(step: int, steps: int, *, warmup: float) -> float:
    """Factor of the learning rate: up in a straight line, then down along half a cosine.

    SGDR without restarts (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983).

    Args:
        step: Counted from 0.
        steps: How many there are.
        warmup: Share of the steps over which it rises, at least one of them.
    """
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


def first_and_last(losses: Sequence[float]) -> dict[str, float]:
    """Mean loss of the first and of the last steps of a run, as its card gives them."""
    return {"first": mean_loss(losses[:_RECENT]), "last": mean_loss(losses[-_RECENT:])}


def mean_loss(losses: Sequence[float]) -> float:
    """To four digits; 0 for none."""
    return round(math.fsum(losses) / max(1, len(losses)), 4)
