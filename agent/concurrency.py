"""The one place where blocking work crosses into another thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds to wait for a cancelled producer: a forward pass or a window of the recogniser cannot be cut short."""


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def pull(produce: Callable[[Callable[[T], None]], None], cancelled: threading.Event) -> Generator[T, None, None]:
    """Run a producer in a thread of its own and yield what it emits, as it emits it.

    The consumer's work (synthesis, playback) overlaps the producer's. If the consumer stops early, by an exception such
    as KeyboardInterrupt or by closing the iterator, `cancelled` is set, and the producer is waited for.

    Args:
        produce: Called once with a function that takes what is to be yielded; should watch `cancelled`.
        cancelled: Set when nobody wants more.

    Raises:
        BaseException: Whatever the producer raised, in the consumer's thread.
    """
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()

    def work() -> None:
        try:
            produce(items.put)
        except BaseException as error:
            items.put(_End(error))
        else:
            items.put(_End(None))

    thread = threading.Thread(target=work, name="vivavoce-turn", daemon=True)
    thread.start()
    try:
        while not isinstance(item := items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        cancelled.set()
        thread.join(_PATIENCE)
