"""Loading a model: without a progress bar, and with an error that names the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import EmbeddingError


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers while a model loads: it would be drawn for less than a second."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def loading(what: str, where: str) -> Iterator[None]:
    """Load quietly, and with a sentence if there is no such model.

    Raises:
        EmbeddingError: For what transformers and sentence-transformers raise where there is no such model.
    """
    try:
        with quiet_loading():
            yield
    except (OSError, ValueError) as error:
        raise EmbeddingError(
            f"No {what} at {where!r} ({_first_line(error)}): give its folder, or a hub name while online."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
