"""What can go wrong when looking something up.

::

    RetrievalError
    ├── LoadingError               the documents could not be read
    ├── EmbeddingError             the embedding model could not be loaded or gave unusable vectors
    │   └── DimensionMismatch      vectors of another length than the index holds
    ├── InstructionNotUnderstood   an instruction asks for what the metadata does not know
    ├── DeviceUnavailable          a device was asked for that is not there
    └── StoreError                 the index folder could not be written or read
        ├── IndexNotFound          there is no index in that folder
        ├── IndexCorrupt           a file of the index is missing, truncated or changed
        └── EmbedderMismatch       the index was made by another embedder

Bad options are a plain ``ValueError`` at construction.
"""

from __future__ import annotations


class RetrievalError(Exception):
    """Base of everything this package raises on purpose.

    Attributes:
        stage: Which step failed: ``"load"``, ``"embed"``, ``"index"``, ``"open"`` or ``"save"``.
        retryable: Whether the same call can succeed later without anything being changed by hand.
    """

    stage = "retrieve"
    retryable = False

    def __init__(self, message: str, *, stage: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.stage = type(self).stage if stage is None else stage
        self.retryable = type(self).retryable if retryable is None else retryable


class LoadingError(RetrievalError):
    """The documents could not be read."""

    stage = "load"


class EmbeddingError(RetrievalError):
    """The embedding model could not be loaded or gave unusable vectors."""

    stage = "embed"


class InstructionNotUnderstood(RetrievalError, ValueError):
    """An instruction asks for what the metadata does not know."""

    stage = "retrieve"


class DimensionMismatch(EmbeddingError):
    """Vectors of another length than the index holds."""


class DeviceUnavailable(RetrievalError):
    """A device was asked for that is not there."""

    stage = "index"


class StoreError(RetrievalError):
    """The index folder could not be written or read."""

    stage = "open"


class IndexNotFound(StoreError):
    """There is no index in that folder."""


class IndexCorrupt(StoreError):
    """A file of the index is missing, truncated or changed."""


class EmbedderMismatch(StoreError):
    """The index was made by another embedder."""
