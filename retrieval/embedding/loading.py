"""What loading a model needs: a device, no progress bar, and an error that names the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from ..errors import DeviceUnavailable, EmbeddingError

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def torch_device(device: Device) -> Literal["cpu", "cuda"]:
    """Where PyTorch is to compute; ``"auto"`` takes a GPU if there is one.

    Raises:
        DeviceUnavailable: If ``"cuda"`` is asked for and not there.
        ValueError: If the device has another name.
    """
    import torch

    missing = "PyTorch finds no GPU: use device='auto' to fall back to the CPU."
    return pick_device(device, torch.cuda.is_available, DeviceUnavailable(missing, stage="embed"))


def pick_device(device: Device, has_gpu: Callable[[], bool], missing: DeviceUnavailable) -> Literal["cpu", "cuda"]:
    """Where a library is to compute.

    Args:
        device: ``"auto"`` takes a GPU if there is one.
        has_gpu: Whether the library can use one here; not called for ``"cpu"``.
        missing: What is raised if ``"cuda"`` is asked for and not there.

    Raises:
        DeviceUnavailable: `missing`.
        ValueError: If the device has another name.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "cpu":
        return "cpu"
    if has_gpu():
        return "cuda"
    if device == "cuda":
        raise missing
    return "cpu"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers while a model loads: it would be drawn for less than a second."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def loading(what: str, where: str) -> Iterator[None]:
    """Load quietly, and with a sentence if there is no such model.

    Raises:
        EmbeddingError: For what transformers and sentence-transformers raise where there is no such model.
    """
    try:
        with quiet_loading():
            yield
    except (OSError, ValueError) as error:
        raise EmbeddingError(
            f"No {what} at {where!r} ({_first_line(error)}): give its folder, or a hub name while online."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
