"""Writing speech to a WAV file, piece by piece, while it is synthesised."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .audio import Audio, atomic_file

if TYPE_CHECKING:
    import soundfile


class WavSink:
    """Streams pieces of audio into one 16-bit WAV file, which appears when the block ends well.

    The first piece sets the rate; later ones are resampled to it. A block that ends by an error or Ctrl-C, or in which
    nothing was written, leaves no file (and an older file of that name as it was).

    Example:
        >>> with WavSink("answer.wav") as sink:
        ...     for piece in synthesizer.speak("Good morning."):
        ...         sink.write(piece)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.seconds = 0.0
        self._stack = ExitStack()
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> WavSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = None
        self._stack.__exit__(kind, error, trace)

    def write(self, piece: Audio) -> None:
        """Append one piece.

        Raises:
            AudioError: If the file cannot be created or written.
        """
        if self._file is None:
            import soundfile

            raw = self._stack.enter_context(atomic_file(self.path))
            self._file = self._stack.enter_context(
                soundfile.SoundFile(raw, "w", samplerate=piece.rate, channels=1, format="WAV", subtype="PCM_16")
            )
        self._file.write(piece.resampled(self._file.samplerate).samples)
        self.seconds += piece.seconds
