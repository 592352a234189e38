"""Frames and blocks of a recording, decoded as they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from .audio import SPEECH_RATE, Audio, Samples

_BLOCK_SECONDS = 30


def frames(source: Audio | str | os.PathLike[str], seconds: float = 0.032) -> Iterator[Samples]:
    """Replay a recording frame by frame at 16 kHz, as fast as the listener takes them.

    Time is what the frames add up to, not the wall clock. A file is decoded as it is walked through, so its length
    does not matter to memory.

    Args:
        source: Audio, or the path of an audio file.
        seconds: Length of a frame; 0.032 (512 samples) is what the voice detector takes.

    Yields:
        float32, mono, [-1, 1], shape (round(seconds * 16000),); the last one is filled up with zeros.

    Raises:
        AudioError: If the file cannot be read.
        ValueError: If a frame would hold no sample.
    """
    size = round(seconds * SPEECH_RATE)
    if size < 1:
        raise ValueError(f"a frame of {seconds} s holds no sample; use 0.032")
    pending = np.zeros(0, dtype=np.float32)
    for block in speech_blocks(source):
        pending = np.concatenate([pending, block.samples])
        complete = len(pending) // size * size
        yield from pending[:complete].reshape(-1, size)
        pending = pending[complete:]
    if len(pending):
        yield np.pad(pending, (0, size - len(pending)))


def speech_blocks(source: Audio | str | os.PathLike[str]) -> Iterator[Audio]:
    """Pieces of a recording at 16 kHz, 30 seconds at a time.

    Raises:
        AudioError: If the file cannot be read.
    """
    if isinstance(source, Audio):
        audio, size = source.resampled(SPEECH_RATE), _BLOCK_SECONDS * SPEECH_RATE
        for start in range(0, len(audio.samples), size):
            yield Audio(audio.samples[start : start + size], SPEECH_RATE)
    else:
        yield from Audio.blocks(source, _BLOCK_SECONDS, rate=SPEECH_RATE)
