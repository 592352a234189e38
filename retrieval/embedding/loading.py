"""What loading a model needs: a device, no progress bar, and an error that names the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DeviceUnavailable, EmbeddingError

if TYPE_CHECKING:
    pass


def torch_device(device: Device) -> str:
    """What PyTorch calls a device.

    Raises:
        DeviceUnavailable: If ``"cuda"`` is asked for and not there.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("PyTorch finds no GPU: use device='auto' to fall back to the CPU.", stage="embed")
    return "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"


@contextmanager
def loading(what: str, where: str) -> Iterator[None]:
    """No progress bar of transformers while a small model loads, and a sentence if it cannot be.

    Raises:
        EmbeddingError: For what transformers and sentence-transformers raise where there is no such model.
    """
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError) as error:
        raise EmbeddingError(
            f"No {what} at {where!r} ({_first_line(error)}): give its folder, or a hub name while online."
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


Device = Literal["auto", "cpu", "cuda"]
