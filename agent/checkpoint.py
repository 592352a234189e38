"""Where a training run that was broken off goes on: one file, which is of one run only and whole at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError

logger = logging.getLogger(__name__)

_STAGE = "train"
_FORMAT = 1
_KINDS = {"data": "other data", "settings": "other settings", "model": "another base model", "seed": "another seed"}


@dataclass(frozen=True, slots=True)
class Run:
    """The identity of a training run; two runs with the same one end with the same weights.

    Attributes:
        data: Digest of the content of the training data, wherever its files lie.
        settings: Digest of all options.
        model: Digest of the weights that the run begins with.
        seed: Of everything that is drawn; None if nothing is.
    """

    data: str
    settings: str
    model: str
    seed: int | None = None

    @classmethod
    def of(cls, data: Iterable[object], settings: Mapping[str, object], model: str, seed: int | None = None) -> Run:
        """Digest what a run is made of.

        Args:
            data: The training examples in their order: JSON values, or dataclasses of such.
            settings: All options, by name.
            model: Digest of the base model, such as ``weights_digest`` gives.
            seed: Of everything that is drawn.
        """
        return cls(_digest(data), _digest([settings]), model, seed)

    def differences(self, other: Run) -> str:
        """What the other run has that this one has not, in words; empty if they are the same."""
        return " and ".join(words for kind, words in _KINDS.items() if getattr(self, kind) != getattr(other, kind))


class Checkpoint:
    """The file in which a run leaves its state, and from which the same run goes on.

    It is written aside and renamed, so that a kill at any point leaves the last whole state; it is read without
    unpickling objects; and one of another run is neither taken over nor written over.
    """

    def __init__(self, path: Path, run: Run) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            path: The file.
            run: The run that reads and writes it.
        """
        self.path = path
        self._run = run
        self._owned = False  # whether the file, if there is one, is known to be of this run

    def load(self) -> dict[str, Any] | None:
        """The state that this run saved last, tensors on the CPU; None if it has to start from the beginning.

        Raises:
            ConfigError: If the file is damaged, or of another run.
        """
        if not os.path.lexists(self.path):
            self._owned = True
            return None
        content = self._read()
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ConfigError(
                f"{self.path} is no checkpoint of this version of vivavoce: delete it to start from the beginning, "
                "or name another --out",
                stage=_STAGE,
            )
        differences = self._run.differences(Run(**content["run"]))
        if differences:
            raise ConfigError(
                f"{self.path} is the checkpoint of another run, with {differences}: delete it to start from the "
                "beginning, or name another --out",
                stage=_STAGE,
            )
        self._owned = True
        logger.info("going on from %s", self.path)
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state.

        Args:
            state: Tensors, numbers, texts, and lists and dicts of these.

        Raises:
            ConfigError: If the file cannot be written, or another run has put its own there.
        """
        import torch

        if not self._owned:
            self.load()
        aside = self._aside
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                torch.save({"format": _FORMAT, "run": asdict(self._run), "state": dict(state)}, file)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            aside.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise ConfigError(
                f"cannot write the checkpoint {self.path} ({error}): make room, or name another --out", stage=_STAGE
            ) from error

    def remove(self) -> None:
        """Delete the file: the run has ended, and what it made is saved elsewhere."""
        self.path.unlink(missing_ok=True)
        self._aside.unlink(missing_ok=True)

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")

    def _read(self) -> object:
        import torch

        try:
            with zipfile.ZipFile(self.path) as archive:
                broken = archive.testzip()  # torch itself reads flipped bits without a word
            if broken is not None:
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
            content: object = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"the checkpoint {self.path} is damaged ({reason}): delete it to start from the beginning",
                stage=_STAGE,
            ) from error
        return content


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=_plain).encode() + b"\n")
    return digest.hexdigest()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form to take the digest of")
