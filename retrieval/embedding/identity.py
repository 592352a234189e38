"""What a model is known by: the name that people read, the fingerprint that tells whether vectors may be compared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def model_name(path_or_name: str | Path) -> str:
    """What people call a model: the last word of its folder, or of its name on the Hugging Face hub.

    A model in the hub's cache lies in ``models--OWNER--NAME/snapshots/HASH``, where it is called NAME.

    Args:
        path_or_name: Its folder, or ``owner/name``; "" for a model that was never saved, which has no name.
    """
    if path_or_name == "":
        return ""
    folder = Path(os.path.abspath(path_or_name))  # so that "." and "models/.." have a name, too
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def fingerprint_of(*parts: object) -> str:
    """Sixteen hexadecimal digits that stand for all the parts, as their texts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def weights_digest(model: torch.nn.Module) -> str:
    """Digest of a model's weights: names, shapes and up to 64 values of each, in bfloat16.

    Hashing all of a large model would take longer than loading it; any other training run changes these values too.
    """
    import torch

    digest = hashlib.sha256()
    with torch.inference_mode():
        for name, weight in sorted(model.named_parameters()):
            digest.update(f"{name} {tuple(weight.shape)}".encode() + sampled_bytes(weight))
    return digest.hexdigest()


def sampled_bytes(weight: torch.Tensor) -> bytes:
    """Up to 64 values of a tensor, evenly spaced and rounded to bfloat16, as the bytes of float32."""
    import torch

    values = weight.detach().reshape(-1)
    return values[:: max(1, values.numel() // 64)][:64].to(torch.bfloat16).float().cpu().numpy().tobytes()
