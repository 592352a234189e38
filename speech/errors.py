"""What can go wrong between sound and words.

    SpeechError                 anything this folder raises on purpose
    ├── AudioError              a file or an array that is not usable sound
    ├── ModelError              weights that are missing, broken, or do not fit
    └── SynthesisError          a text that could not be turned into sound

Wrong options are programming errors and raise ``ValueError`` at construction.
"""

from __future__ import annotations


class SpeechError(Exception):
    """Base of all errors of this folder.

    Attributes:
        stage: The step that failed: ``"read"``, ``"write"``, ``"load"``, ``"transcribe"``, ``"speak"``.
        retryable: Whether the same call may succeed later without a change by the caller.
    """

    def __init__(self, message: str, *, stage: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.retryable = retryable


class AudioError(SpeechError):
    """A file, a byte string or an array is not usable sound."""


class ModelError(SpeechError):
    """A model's weights are missing, broken, or made for something else."""


class SynthesisError(SpeechError):
    """A text could not be turned into sound."""
