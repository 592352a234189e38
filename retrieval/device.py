"""Where a library computes: on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from .errors import DeviceUnavailable

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
"""``"auto"`` takes a GPU if the library finds one."""


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
