"""What can go wrong in memory.

::

    RecordError              stage, retryable
    ├── RecordCorrupt        the file is not a record of conversations, or is damaged
    └── RecordBusy           another process is writing; try again
"""

from __future__ import annotations


class RecordError(Exception):
    """Base of every error that memory raises on purpose.

    Attributes:
        stage: Where it happened, one word ("remember", "recall", "open").
        retryable: Whether the same call may succeed later with nothing changed.
    """

    def __init__(self, message: str, *, stage: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.retryable = retryable


class RecordCorrupt(RecordError):
    """A file that is not a record of conversations, or is damaged."""


class RecordBusy(RecordError):
    """Another process is writing at this moment."""
