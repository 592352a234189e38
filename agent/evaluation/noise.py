"""Recorded noises, mixed into recordings at a stated signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivavoce.speech import SPEECH_RATE, Audio

from ..errors import ConfigError

_SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}


@dataclass(frozen=True, slots=True)
class Noise:
    """Recorded noises to mix in at a stated signal-to-noise ratio.

    Attributes:
        sounds: 16 kHz.
        snr: dB, of the level of the loud parts of the recording above that of the whole stretch of noise.
    """

    sounds: tuple[Audio, ...]
    snr: float

    @classmethod
    def read(cls, path: Path, snr: float) -> Noise:
        """A sound file, or all sound files of a folder and its folders.

        Raises:
            ConfigError: If there is none.
        """
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _SOUNDS)
        if not files:
            raise ConfigError(f"There is no sound file in {path}: name one, or a folder of them", stage="config")
        return cls(tuple(Audio.read(file, rate=SPEECH_RATE) for file in files), snr)

    def over(self, audio: Audio, seed: int) -> Audio:
        """The recording with a stretch of one of the noises, both chosen by `seed`; scaled down if it would clip."""
        random = np.random.default_rng(seed)
        noise = self.sounds[random.integers(len(self.sounds))].resampled(audio.rate).samples
        length = len(audio.samples)
        noise = np.tile(noise, -(-(length + 1) // max(1, len(noise))))
        start = int(random.integers(len(noise) - length))
        stretch = Audio(noise[start : start + length], audio.rate)
        # Silence has no level to mix at.
        return audio.mixed_with(stretch, self.snr) if audio.active_rms and stretch.rms else audio
