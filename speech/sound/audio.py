"""Sound in memory and on disk: one frozen type that every other part takes and gives."""

from __future__ import annotations

import base64
import io
import math
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError

if TYPE_CHECKING:
    import soundfile

Samples: TypeAlias = NDArray[np.float32]
Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO

SPEECH_RATE = 16_000
"""Samples per second that detectors and recognisers hear."""

_PCM_SCALE = 32_768.0
# Decoders and resamplers overshoot full scale by a few dB; anything far above it is PCM that nobody scaled.
_OVERSHOOT = 16.0
_DECODE_SECONDS = 30.0
_LEVEL_WINDOW = 0.02
_ACTIVE_RANGE_DB = 30.0
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Audio:
    """Mono sound. Samples are read-only; every method returns a new object.

    Attributes:
        samples: float32, mono, [-1, 1], shape (n,). Overshoots up to 24 dB are clipped at construction.
        rate: Samples per second.

    Raises:
        AudioError: If the samples are not one-dimensional floating-point numbers, hold NaN or infinity, or are far
            outside [-1, 1]; if the rate is not a positive whole number.
    """

    samples: Samples
    rate: int

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | np.integer) or self.rate <= 0:
            raise AudioError(
                f"rate must be a positive whole number of samples per second, not {self.rate!r}", stage="read"
            )
        samples = np.asarray(self.samples)
        if samples.ndim != 1:
            raise AudioError(
                f"samples must be mono, shape (n,), not {samples.shape}; average the channels first", stage="read"
            )
        if samples.dtype.kind != "f":
            raise AudioError(
                f"samples must be floats in [-1, 1], not {samples.dtype}; use Audio.from_pcm16 for 16-bit integers",
                stage="read",
            )
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        peak = float(np.max(np.abs(samples), initial=0.0))
        if not math.isfinite(peak):
            raise AudioError("samples hold NaN or infinity; replace them, e.g. with numpy.nan_to_num", stage="read")
        if peak > _OVERSHOOT:
            raise AudioError(
                f"samples reach {peak:.0f} but must lie in [-1, 1]; divide 16-bit values by 32768", stage="read"
            )
        samples = np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples.view()
        samples.flags.writeable = False
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "rate", int(self.rate))

    def __repr__(self) -> str:
        return f"Audio({self.seconds:.2f} s, {self.rate} Hz)"

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate

    @property
    def rms(self) -> float:
        """Root mean square of all samples, [0, 1]; 0 for no samples."""
        return float(np.sqrt(np.mean(np.square(self.samples, dtype=np.float64)))) if len(self.samples) else 0.0

    @property
    def active_rms(self) -> float:
        """Root mean square of the loud parts, [0, 1]: 20-ms windows at most 30 dB below the loudest one.

        Pauses do not count, so a sentence with long pauses has the level that it is heard at (the idea of ITU-T P.56).
        """
        size = max(1, round(_LEVEL_WINDOW * self.rate))
        padded = np.pad(self.samples, (0, -len(self.samples) % size)).reshape(-1, size)
        power = np.mean(np.square(padded, dtype=np.float64), axis=1)
        loudest = float(np.max(power, initial=0.0))
        if loudest == 0.0:
            return 0.0
        return float(np.sqrt(np.mean(power[power >= loudest * 10 ** (-_ACTIVE_RANGE_DB / 10)])))

    # -- in ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Source, *, rate: int | None = None) -> Audio:
        """Decode a whole file: WAV (8 to 32 bit, float), FLAC, OGG, MP3. Channels are averaged.

        Args:
            source: A path, the bytes of a file, or a binary file object.
            rate: Resample to this rate while reading, so that the native rate is never in memory as a whole.

        Raises:
            AudioError: If there is no such file, it is a folder, empty, not audio, has no samples, or holds NaN.
        """
        pieces = list(cls.blocks(source, rate=rate))
        return pieces[0] if len(pieces) == 1 else cls.join(pieces)

    @classmethod
    def blocks(cls, source: Source, seconds: float = _DECODE_SECONDS, *, rate: int | None = None) -> Iterator[Audio]:
        """Decode a file piece by piece, so that its length does not matter to memory.

        Args:
            source: As for `read`.
            seconds: Decode about this many seconds at a time.
            rate: Resample to this rate on the way.

        Raises:
            AudioError: As `read`, when the piece that shows it is reached.
        """
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, not {seconds}; 30 is a good length for a block")
        name = _name(source)
        with _opened(source, name) as file:
            resample = _resampler(file.samplerate, rate)
            size = max(1, round(seconds * file.samplerate))
            empty = True
            last = False
            while not last:
                frames = _decoded(file, size, name)
                last = len(frames) < size
                # The mean of the channels, in float32 and without a copy for a file that is mono already.
                mono = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
                mono = resample(mono, last)
                if len(mono):
                    empty = False
                    yield cls(mono, rate or file.samplerate)
            if empty:
                raise AudioError(f"{name} has no samples; record it again", stage="read")

    @staticmethod
    def length(source: str | os.PathLike[str]) -> float:
        """Seconds that a file lasts according to its header; nothing is decoded.

        Raises:
            AudioError: If there is no such file or it is not audio.
        """
        with _opened(source, _name(source)) as file:
            return float(file.frames / file.samplerate)

    @classmethod
    def from_pcm16(cls, data: bytes, rate: int) -> Audio:
        """Sound from 16-bit little-endian mono PCM.

        Raises:
            AudioError: If `data` has an odd number of bytes.
        """
        if len(data) % 2:
            raise AudioError(f"16-bit PCM has an even number of bytes, not {len(data)}", stage="read")
        return cls(np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(_PCM_SCALE), rate)

    @classmethod
    def silence(cls, seconds: float, rate: int = SPEECH_RATE) -> Audio:
        """`seconds` of zeros."""
        return cls(np.zeros(round(seconds * rate), dtype=np.float32), rate)

    @classmethod
    def join(cls, pieces: Iterable[Audio]) -> Audio:
        """Pieces one after the other, at the rate of the first.

        Raises:
            AudioError: If there is no piece.
        """
        parts = list(pieces)
        if not parts:
            raise AudioError("there is nothing to join; give at least one piece of audio", stage="read")
        rate = parts[0].rate
        return cls(np.concatenate([part.resampled(rate).samples for part in parts]), rate)

    # -- out -----------------------------------------------------------------------------------------------------

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write WAV or FLAC (16 bit), OGG or MP3, by the suffix of `path`; the file appears whole or not at all.

        Raises:
            AudioError: If the suffix is unknown or the file cannot be written.
        """
        target = Path(path)
        form = _FORMATS.get(target.suffix.lower())
        if form is None:
            raise AudioError(f"cannot write {target.name!r}; end the name in {', '.join(_FORMATS)}", stage="write")
        import soundfile

        with atomic_file(target) as file:
            try:
                soundfile.write(file, self.samples, self.rate, format=form)
            except soundfile.SoundFileError as error:
                raise AudioError(f"cannot write {target} at {self.rate} Hz: {error}", stage="write") from error
        return target

    def pcm16(self) -> bytes:
        """The samples as 16-bit little-endian PCM; `from_pcm16` gives the same numbers back."""
        scaled = np.clip(np.rint(self.samples * np.float32(_PCM_SCALE)), -32_768, 32_767)
        return bytes(scaled.astype("<i2").tobytes())

    def _repr_html_(self) -> str:
        import soundfile

        wav = io.BytesIO()
        soundfile.write(wav, self.samples, self.rate, format="WAV", subtype="PCM_16")
        data = base64.b64encode(wav.getvalue()).decode("ascii")
        return f'<audio controls src="data:audio/wav;base64,{data}"></audio> {self.seconds:.2f} s, {self.rate} Hz'

    # -- changed -------------------------------------------------------------------------------------------------

    def resampled(self, rate: int) -> Audio:
        """The same sound at another rate (soxr, high quality); itself if the rate is right already."""
        if rate == self.rate:
            return self
        if not len(self.samples):
            return Audio(self.samples, rate)
        import soxr

        return Audio(soxr.resample(self.samples, self.rate, rate), rate)

    def slice(self, start: float = 0.0, end: float | None = None) -> Audio:
        """The part from `start` to `end` seconds, cut to what there is; shares memory with this object.

        Raises:
            ValueError: If `start` is negative or `end` lies before `start`.
        """
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"a slice needs 0 <= start <= end, not start={start}, end={end}")
        return Audio(
            self.samples[round(start * self.rate) : None if end is None else round(end * self.rate)], self.rate
        )

    def mixed_with(self, noise: Audio, snr_db: float) -> Audio:
        """This speech with `noise` under it, the noise repeated or cut to length; the same every time.

        The signal's level is its `active_rms`, the noise's the RMS of what is used of it. Where the sum would exceed
        full scale both are turned down together, which keeps the ratio.

        Raises:
            AudioError: If either of them is silent.
        """
        other = noise.resampled(self.rate).samples
        if not len(other):
            raise AudioError("the noise has no samples; give a recording of some noise", stage="read")
        under = Audio(np.resize(other, self.samples.shape), self.rate)
        signal_level, noise_level = self.active_rms, under.rms
        if signal_level == 0.0 or noise_level == 0.0:
            silent = "the signal" if signal_level == 0.0 else "the noise"
            raise AudioError(f"{silent} is silent, so there is no ratio to mix at; give audible sound", stage="read")
        gain = signal_level / noise_level / 10 ** (snr_db / 20)
        total: Samples = self.samples + np.float32(gain) * under.samples
        return Audio(np.divide(total, max(1.0, float(np.max(np.abs(total)))), dtype=np.float32), self.rate)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends well and is removed when it does not, Ctrl-C included.

    Raises:
        AudioError: If the file cannot be created, written or renamed.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        file = part.open("x+b")
    except OSError as error:
        raise AudioError(f"cannot write {path}: {error.strerror}", stage="write") from error
    try:
        with file:
            yield file
        try:
            os.replace(part, path)
        except OSError as error:
            raise AudioError(f"cannot write {path}: {error.strerror}", stage="write") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None) or "the audio"


@contextmanager
def _opened(source: Source, name: str) -> Iterator[soundfile.SoundFile]:
    import soundfile

    handle: Any
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{name} is a folder; name a file in it", stage="read")
        try:
            if path.stat().st_size == 0:
                raise AudioError(f"{name} is an empty file; record it again", stage="read")
        except OSError as error:
            raise AudioError(f"cannot read {name}: {error.strerror}", stage="read") from error
        handle = os.fspath(path)
    else:
        data = source if isinstance(source, bytes) else source.read()
        if not data:
            raise AudioError(f"{name} is empty; give the bytes of a whole file", stage="read")
        handle = io.BytesIO(data)
    try:
        file = soundfile.SoundFile(handle)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise AudioError(f"{name} is not audio that can be read; give WAV, FLAC, OGG or MP3", stage="read") from error
    with file:
        yield file


def _decoded(file: soundfile.SoundFile, size: int, name: str) -> Samples:
    """Up to `size` frames, float32, shape (n, channels)."""
    import soundfile

    try:
        frames: Samples = file.read(size, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{name} is damaged: {error}", stage="read") from error
    if not np.isfinite(frames).all():
        raise AudioError(f"{name} holds samples that are not numbers (NaN or infinity); write it again", stage="read")
    return frames


class _resampler:
    """Resamples a stream of pieces, or passes them through where there is nothing to do."""

    def __init__(self, native: int, rate: int | None) -> None:
        self._stream: Any = None
        if rate is not None and rate != native:
            import soxr

            self._stream = soxr.ResampleStream(native, rate, 1, dtype="float32")

    def __call__(self, samples: Samples, last: bool) -> Samples:
        if self._stream is None:
            return samples
        resampled: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)
        return resampled
