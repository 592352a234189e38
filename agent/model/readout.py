"""P(<RET>) of a model that was never trained to write ``<RET>``: a calibrated linear reader of one hidden state.

The state from which a causal model predicts the first token of its answer also tells whether it needs documents for
that answer. A logistic regression on it is, in effect, the output row of one more token, ``<RET>``, attached to an
inner layer: it costs one dot product, and the base weights stay as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..weights import REGISTRY


@dataclass(frozen=True, slots=True)
class ReadOut:
    """A trained reader.

    Attributes:
        model: Name of the model it reads.
        layer: Which hidden state, counted as transformers does (0 is the embedding).
        weights: float32, shape (hidden_size,).
        bias: Scalar, nats.
        threshold: P(``<RET>``) from which looking up is right, fitted on held-out turns.
    """

    model: str
    layer: int
    weights: NDArray[np.float32]
    bias: float
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all():
            raise ConfigError(f"weights must be one finite vector, not of shape {self.weights.shape}", stage="config")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {self.threshold}", stage="config")

    def probability(self, state: NDArray[np.float32]) -> float:
        """P(``<RET>``) for a hidden state of shape (hidden_size,)."""
        # The dot product saturates where exp would overflow.
        logit = float(np.clip(state @ self.weights + self.bias, -60, 60))
        return float(1 / (1 + np.exp(-logit)))

    def check(self, config: Any) -> None:
        """Refuse a model that this reader cannot read.

        Raises:
            ConfigError: If layers or width differ.
        """
        if config.hidden_size != len(self.weights) or not 0 <= self.layer <= config.num_hidden_layers:
            raise ConfigError(
                f"The read-out was trained on {self.model} (layer {self.layer}, width {len(self.weights)}); this "
                f"model has {config.num_hidden_layers} layers of width {config.hidden_size}: "
                "`vivavoce train read-out` makes one",
                stage="config",
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a JSON file that `save` wrote.

        Raises:
            ConfigError: If it is not one.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            weights = np.asarray(data["weights"], dtype=np.float32)
            return cls(str(data["model"]), int(data["layer"]), weights, float(data["bias"]), float(data["threshold"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is no read-out ({error}): `vivavoce train read-out` makes one", stage="config"
            ) from error

    @classmethod
    def shipped(cls, model: str) -> Self | None:
        """The reader that comes with the package for a model of the registry; None if there is none."""
        if model not in REGISTRY:  # else a name such as "../x" would be read as a path
            return None
        path = resources.files("vivavoce.agent") / "data" / f"{model}.json"
        with resources.as_file(path) as file:
            return cls.load(file) if file.is_file() else None

    def save(self, path: str | Path, card: dict[str, Any]) -> None:
        """Write it as JSON, its card (data, command, figures) beside the numbers."""
        weights = [float(f"{weight:.6g}") for weight in self.weights]
        data = {"card": card, "model": self.model, "layer": self.layer, "threshold": self.threshold, "bias": self.bias}
        Path(path).write_text(json.dumps({**data, "weights": weights}, indent=1) + "\n", encoding="utf-8")
