"""From text to vectors that are close when the meaning is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .identity import fingerprint_of, model_name, weights_digest
from .loading import Device, loading, torch_device

Kind = Literal["query", "passage"]
Vectors = NDArray[np.float32]


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """What people call it; an index names it, but only the fingerprint decides."""
        ...

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two embedders if and only if their vectors may be compared (weights, pooling and prompts)."""
        ...

    def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Embed texts.

        Args:
            texts: Any texts, the empty one included.
            kind: Whether they ask or may answer; models with prompts treat the two differently.

        Returns:
            float32, shape (len(texts), dim), rows of unit length.
        """
        ...


@runtime_checkable
class CenteringEmbedder(Embedder, Protocol):
    """An embedder whose vectors are only useful once the mean of the corpus is taken off.

    A knowledge base fits the centre to its passages, keeps it beside the vectors, and asks with it. The centre is no
    part of the fingerprint.
    """

    @property
    def center(self) -> Vectors | None:
        """float32, shape (dim,); None as long as none is fitted."""
        ...

    def with_center(self, center: Vectors) -> CenteringEmbedder:
        """The same embedder (the model is shared) with another centre."""
        ...

    def pooled(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Vectors before centring and scaling: float32, shape (len(texts), dim)."""
        ...

    def finish(self, pooled: Vectors) -> Vectors:
        """Centre pooled vectors and scale them to unit length."""
        ...


class SentenceTransformerEmbedder:
    """Any sentence-transformers model; its own prompts for queries and documents are used.

    Calls from several threads are served one after the other.
    """

    def __init__(self, path_or_name: str | Path, *, device: Device = "auto", batch_size: int = 32) -> None:
        """Load the model.

        Args:
            path_or_name: A folder, or a name on the Hugging Face hub.
            device: Where it runs; ``"auto"`` takes a GPU if there is one.
            batch_size: How many texts go through the model at once.

        Raises:
            EmbeddingError: If the model cannot be loaded.
            DeviceUnavailable: If ``"cuda"`` is asked for and not there.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "Sentence embedders need sentence-transformers: pip install 'vivavoce[embedding]'"
            ) from error

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        where = str(path_or_name)
        chosen = torch_device(device)
        with loading("sentence-transformers model", where):
            self._model = SentenceTransformer(where, device=chosen)
        self.name = model_name(where)
        self.dim = len(self._model.encode("warm", show_progress_bar=False))  # the first call is slow: pay for it here
        steps = [(type(step).__name__, getattr(step, "pooling_mode", "")) for step in self._model]
        read = (self._model.max_seq_length, sorted(self._model.prompts.items()))
        self.fingerprint = fingerprint_of("sentence-transformer", weights_digest(self._model), steps, read)
        self._batch_size = batch_size
        self._lock = threading.Lock()  # fast tokenizers are not thread-safe ("Already borrowed")

    def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> Vectors:
        """Embed texts; see ``Embedder.embed``. Texts longer than the model reads are cut."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        encode = self._model.encode_query if checked_kind(kind) == "query" else self._model.encode_document
        with self._lock:
            vectors = encode(list(texts), batch_size=self._batch_size, show_progress_bar=False)
        return unit(np.asarray(vectors, np.float32))


def checked_kind(kind: Kind) -> Kind:
    """The kind itself.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in ("query", "passage"):
        raise ValueError(f"kind must be 'query' or 'passage', got {kind!r}.")
    return kind


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to unit length; a row of zeros becomes the first axis, since it has no direction of its own."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = lengths[:, 0] < 1e-12
    scaled: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    if flat.any():
        scaled[flat] = 0.0
        scaled[flat, 0] = 1.0
    return scaled
