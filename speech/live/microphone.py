"""Frames from a microphone, or from a recording at the pace of its time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from ..errors import AudioError
from ..sound.audio import SPEECH_RATE, Samples
from ..sound.vad import FRAME

FRAME_SECONDS = FRAME / SPEECH_RATE


def in_real_time(sound: Iterable[Samples]) -> Iterator[Samples]:
    """Frames as a microphone gives them: each when its last sample would have been recorded."""
    started = time.perf_counter()
    for number, frame in enumerate(sound, start=1):
        time.sleep(max(0.0, started + number * FRAME_SECONDS - time.perf_counter()))
        yield frame


def microphone() -> Iterator[Samples]:
    """Frames from the default microphone, until the caller stops.

    Raises:
        AudioError: If `sounddevice`, its library PortAudio, or a microphone is missing.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: there is no PortAudio
        raise AudioError(
            f"Cannot listen to a microphone ({error}): run pip install 'vivavoce[mic]', and install PortAudio "
            "(libportaudio2), or name a file",
            stage="read",
        ) from error
    try:
        with sounddevice.InputStream(SPEECH_RATE, FRAME, channels=1, dtype="float32") as stream:
            while True:
                block, _ = stream.read(FRAME)
                yield block[:, 0]
    except sounddevice.PortAudioError as error:
        raise AudioError(f"Cannot open a microphone ({error}): connect one, or name a file", stage="read") from error
