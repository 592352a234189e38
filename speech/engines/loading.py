"""What loading a model needs: a device, a number format, and no progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ..errors import ModelError


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers while a model loads."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def pick_device(device: str, library: Literal["torch", "CTranslate2"]) -> str:
    """Where an engine runs: "cpu" or "cuda".

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
    """The torch dtype that a compute type means; "auto" is float32 on a CPU and float16 on a GPU.

    Raises:
        ValueError: If torch has no Whisper in that format.
    """
    import torch

    formats = {"float32": torch.float32, "float16": torch.float16}
    chosen = ("float32" if device == "cpu" else "float16") if compute_type == "auto" else compute_type
    if chosen not in formats:
        raise ValueError(
            f"compute_type={compute_type!r} needs CTranslate2; this engine takes 'auto', 'float32' or 'float16'"
        )
    return formats[chosen]
