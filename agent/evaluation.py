"""What every evaluation shares: rows of data, noisy recordings, error rates, calibration error."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vivavoce.speech import SPEECH_RATE, Audio, normalizer
from vivavoce.speech.audio import atomic_file

from .errors import ConfigError

_SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of a NeMo manifest (JSON lines with `audio_filepath`, relative to the manifest).

    Attributes:
        name: `audio_filepath` as it stands in the manifest.
        path: The recording.
        row: All fields.
    """

    name: str
    path: Path
    row: dict[str, Any]

    def audio(self) -> Audio:
        """The recording at 16 kHz.

        Raises:
            AudioError: If it cannot be read.
        """
        return Audio.read(self.path, rate=SPEECH_RATE)


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
        noise = self.sounds[random.integers(len(self.sounds))].samples
        length = len(audio.samples)
        noise = np.tile(noise, -(-(length + 1) // max(1, len(noise))))
        start = int(random.integers(len(noise) - length))
        stretch = noise[start : start + length]
        level = float(np.sqrt(np.mean(np.square(stretch, dtype=np.float64)))) if length else 0.0
        if level == 0.0:
            return audio
        gain = audio.active_rms / level / 10 ** (self.snr / 20)
        mixed = audio.samples + gain * stretch
        return Audio((mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32), audio.rate)


def read_rows(path: Path, required: Sequence[str] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """JSON lines, gzipped or not.

    Args:
        path: The file.
        required: Fields that every row must have.
        limit: Read no more than this many.

    Raises:
        ConfigError: If the file cannot be read, a line is no JSON object, or lacks a field; it names the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                if limit is not None and len(rows) == limit:
                    break
                if text.strip():
                    rows.append(_row(text, required, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: gzip was cut off, or damaged
        raise ConfigError(
            f"Cannot read {path} ({error}): name a file of JSON objects, one a line; if it is gzipped, as .gz",
            stage="config",
        ) from error
    if not rows:
        raise ConfigError(f"{path} has no rows: write one JSON object a line", stage="config")
    return rows


def _row(text: str, required: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: expected a JSON object ({error})", stage="config") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected a JSON object, not {type(row).__name__}", stage="config")
    missing = [name for name in required if name not in row]
    if missing:
        raise ConfigError(f'{where}: there is no "{missing[0]}"; it has {", ".join(row) or "nothing"}', stage="config")
    return row


def read_clips(manifest: Path, required: Sequence[str] = (), limit: int | None = None) -> list[Clip]:
    """The recordings of a NeMo manifest.

    Raises:
        ConfigError: As `read_rows`, or if a recording is not there.
    """
    clips = []
    for row in read_rows(manifest, ("audio_filepath", *required), limit):
        clip = Clip(str(row["audio_filepath"]), manifest.parent / str(row["audio_filepath"]), row)
        if not clip.path.is_file():
            raise ConfigError(
                f"{manifest}: there is no recording {clip.path}; name it relative to the manifest", stage="config"
            )
        clips.append(clip)
    return clips


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines; written aside and renamed, so that a file is whole or not there."""
    with atomic_file(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def watched(items: Sequence[Any], progress: Callable[[int, int, str], None] | None, label: str) -> Iterator[Any]:
    """The items one by one, with progress told after each."""
    for number, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(number, len(items), label)


def word_error_rate(references: Sequence[str], texts: Sequence[str], language: str = "en") -> float:
    """Corpus word error rate: all errors by all words of the references, both sides through Whisper's normaliser.

    Raises:
        ConfigError: If no reference has a word.
    """
    tally = Errors()
    for reference, text in zip(references, texts, strict=True):
        tally.add(*errors(reference, text, language))
    return tally.rate


def errors(reference: str, text: str, language: str = "en") -> tuple[int, int]:
    """Wrong words (substituted, left out, put in) and words of the reference, after normalising both."""
    from jiwer import process_words

    normalize = normalizer(language)
    wanted, got = normalize(reference), normalize(text)
    if not wanted:
        return len(got.split()), 0
    found = process_words(wanted, got)
    return found.substitutions + found.deletions + found.insertions, len(wanted.split())


@dataclass(slots=True)
class Errors:
    """A running sum of errors and words."""

    errors: int = field(default=0)
    words: int = field(default=0)

    def add(self, errors: int, words: int) -> None:
        """Count one item."""
        self.errors += errors
        self.words += words

    @property
    def rate(self) -> float:
        """Errors per word.

        Raises:
            ConfigError: If there are no words.
        """
        if not self.words:
            raise ConfigError(
                "no reference has a word, so there is no error rate; is the right field read?", stage="eval"
            )
        return self.errors / self.words


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int | None = None) -> float:
    """Expected calibration error: the mean over items of |confidence − share that is right| of the item's bin.

    Bins of equal mass (items sorted by confidence, shape (n,)). Their number is the largest for which the share of
    right ones rises from bin to bin (Roelofs et al. 2022, https://arxiv.org/abs/2012.08668): with a fixed number, few
    items give a large error even to a perfect forecaster.

    Args:
        confidence: Forecasts, [0, 1].
        right: What came true.
        bins: A fixed number of bins instead.
    """
    order = np.argsort(np.asarray(confidence, dtype=np.float64), kind="stable")
    forecasts, outcomes = np.asarray(confidence, dtype=np.float64)[order], np.asarray(right, dtype=np.float64)[order]
    if not len(forecasts):
        return 0.0

    def split(count: int) -> list[tuple[float, float, int]]:
        parts = zip(np.array_split(forecasts, count), np.array_split(outcomes, count), strict=True)
        return [(float(p.mean()), float(o.mean()), len(p)) for p, o in parts if len(p)]

    if bins is None:
        bins = 1
        while bins < len(forecasts):
            shares = [share for _, share, _ in split(bins + 1)]
            if any(later < earlier for earlier, later in itertools.pairwise(shares)):
                break
            bins += 1
    return sum(abs(forecast - share) * size for forecast, share, size in split(bins)) / len(forecasts)


def error_after_refusing(confidence: Sequence[float], right: Sequence[bool], share: float) -> float:
    """Share of wrong items among those that are left when the least certain `share` of all is refused."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    kept = np.asarray(right, dtype=bool)[order][: max(1, len(order) - round(share * len(order)))]
    return float(1.0 - kept.mean())
