"""The embedder that indexes are made with unless another is given."""

from __future__ import annotations

from vivavoce.retrieval import Embedder, SentenceTransformerEmbedder

from ..concurrency import OnModelThread, on_model_thread
from ..weights import EMBEDDING, Progress, resolve
from .chat import Device


def default_embedder(device: Device = "auto", progress: Progress | None = None) -> Embedder:
    """The embedder that indexes are made with unless another is given; it computes where all models compute.

    Raises:
        ImportError: If the `embedding` extra is not installed; nothing is fetched then.
    """
    try:
        import sentence_transformers  # noqa: F401 -- two seconds of imports that need not wait for the model thread
    except ImportError as error:
        raise ImportError("Sentence embedders need sentence-transformers: pip install 'vivavoce[embedding]'") from error

    folder = resolve(EMBEDDING, progress=progress)
    return OnModelThread(on_model_thread(lambda: SentenceTransformerEmbedder(folder, device=device)))
