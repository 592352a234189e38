"""Sentence embedders, above all the one that indexes are made with unless another is given."""

from __future__ import annotations

from pathlib import Path

from vivavoce.retrieval import Embedder, SentenceTransformerEmbedder

from ..concurrency import OnModelThread, on_model_thread
from ..weights import EMBEDDING, Progress, resolve
from .chat import Device


def sentence_embedder(name: str | Path, device: Device = "auto", progress: Progress | None = None) -> Embedder:
    """A sentence-transformers model that computes where all models compute.

    Args:
        name: A name of the registry, a folder, or ``owner/name`` on the hub.
        device: ``auto`` takes the GPU if there is one.
        progress: Told how a download goes.

    Raises:
        ImportError: If the `embedding` extra is not installed; nothing is fetched then.
        ModelUnavailable: The weights could not be fetched.
        EmbeddingError: The model cannot be loaded.
    """
    try:
        import sentence_transformers  # noqa: F401 -- two seconds of imports that need not wait for the model thread
    except ImportError as error:
        raise ImportError(
            "Sentence embedders need sentence-transformers: pip install 'vivavoce[embedding]', or 'vivavoce[cpu]' for "
            "all that a knowledge base needs"
        ) from error

    folder = resolve(name, progress=progress)
    return OnModelThread(on_model_thread(lambda: SentenceTransformerEmbedder(folder, device=device)))


def default_embedder(device: Device = "auto", progress: Progress | None = None) -> Embedder:
    """The embedder that indexes are made with unless another is given."""
    return sentence_embedder(EMBEDDING, device, progress)
