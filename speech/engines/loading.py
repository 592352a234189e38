"""Loading models: choice of device and number format, progress bars off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ..errors import ModelError


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch off the progress bars of transformers while a model loads."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            bars.enable_progress_bar()


def pick_device(device: str, library: Literal["torch", "CTranslate2"]) -> str:
    """The device that an engine runs on: "cpu" or "cuda".

    Args:
        device: "cpu", "cuda", or "auto": a GPU where the library sees one.
        library: What the engine computes with.

    Raises:
        ModelError: If there is no GPU for "cuda".
        ValueError: If the device has another name.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', not {device!r}")
    if device == "cpu":
        return "cpu"
    if _SEES_GPU[library]():
        return "cuda"
    if device == "cuda":
        raise ModelError(f"{library} sees no CUDA device; use device='auto' or 'cpu'", stage="load")
    return "cpu"


def _torch_sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _ctranslate2_sees_gpu() -> bool:
    import ctranslate2

    return bool(ctranslate2.get_cuda_device_count() > 0)


_SEES_GPU = {"torch": _torch_sees_gpu, "CTranslate2": _ctranslate2_sees_gpu}


def torch_number_format(compute_type: str, device: str) -> Any:
    """The torch dtype of a compute type; "auto" is float32 on a CPU and float16 on a GPU.

    Raises:
        ValueError: If torch has no Whisper in that format.
    """
    import torch

    formats = {"float32": torch.float32, "float16": torch.float16}
    number_format = ("float32" if device == "cpu" else "float16") if compute_type == "auto" else compute_type
    if number_format not in formats:
        raise ValueError(
            f"compute_type={compute_type!r} needs CTranslate2; this engine takes 'auto', 'float32' or 'float16'"
        )
    return formats[number_format]
