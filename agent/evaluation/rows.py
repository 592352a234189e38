"""Rows of data: JSON lines and NeMo manifests, read, written and counted."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vivavoce.speech import SPEECH_RATE, Audio
from vivavoce.speech.sound.audio import atomic_file

from ..errors import ConfigError
from ..weights import Progress

Item = TypeVar("Item")


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


def read_rows(path: Path, required: Sequence[str] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Read JSON lines, gzipped or not.

    Args:
        path: The file.
        required: Fields that every row must have.
        limit: Read no more than this many.

    Raises:
        ConfigError: If the file cannot be read, a line is no JSON object, or lacks a field; it names the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if limit is not None and len(rows) == limit:
                    break
                if text.strip():
                    rows.append(_parse_row(text, required, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:  # the last two: gzip was cut off, or damaged
        raise ConfigError(
            f"Cannot read {path} ({error}): name a file of JSON objects, one a line; if it is gzipped, as .gz",
            stage="config",
        ) from error
    if not rows:
        raise ConfigError(f"{path} has no rows: write one JSON object a line", stage="config")
    return rows


def _parse_row(text: str, required: Sequence[str], location: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{location}: expected a JSON object ({error})", stage="config") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{location}: expected a JSON object, not {type(row).__name__}", stage="config")
    missing = [name for name in required if name not in row]
    if missing:
        raise ConfigError(
            f'{location}: there is no "{missing[0]}"; it has {", ".join(row) or "nothing"}', stage="config"
        )
    return row


def read_clips(manifest: Path, required: Sequence[str] = (), limit: int | None = None) -> list[Clip]:
    """Read the recordings of a NeMo manifest.

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
    """Write JSON lines; written aside and renamed, so that a file is whole or not there."""
    with atomic_file(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def watched(items: Sequence[Any], progress: Progress | None, label: str) -> Iterator[Any]:
    """Yield the items one by one, and report progress after each."""
    for number, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(number, len(items), label)


def sampled(items: Iterable[Item], limit: int | None, rng: random.Random) -> list[Item]:
    """The items in random order, at most `limit` of them."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    return shuffled[:limit]
