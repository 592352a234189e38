"""The one place where work crosses from one thread into another."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval import Embedder

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds to wait for a cancelled producer: a forward pass or a window of the recogniser cannot be cut short."""
_GLANCE = 0.2
"""Seconds between two looks for Ctrl-C while something is waited for."""


class _ModelThread:
    """The one thread of this process in which models compute."""

    def __init__(self) -> None:
        self._start()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        """Begin anew. A forked child has the pool of its parent, but not the thread, and would wait for it for ever."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vivavoce-models")
        self._here = threading.local()

    def run(self, work: Callable[[], T]) -> T:
        if getattr(self._here, "is_model_thread", False):
            return work()

        def marked() -> T:
            self._here.is_model_thread = True
            return work()

        return _interruptible_result(self._pool.submit(marked))


_model_thread = _ModelThread()


def on_model_thread(work: Callable[[], T]) -> T:
    """Run work that computes in torch, and wait for it. All of it in a process runs in one thread.

    OpenMP keeps a team of workers per calling thread, and stops letting them spin once there are more of them than
    CPUs. A second thread that computes thus makes every later decoded token about 1.8 times slower (28 ms instead of
    16 ms with SmolLM2-135M on two cores), in both threads and for good.

    A forked child gets a thread of its own. Models that are loaded before a fork are another matter: OpenMP and CUDA
    do not survive one, so load them in the child, or spawn it.
    """
    return _model_thread.run(work)


def in_thread(work: Callable[[], T]) -> T:
    """Run work in a thread of its own and wait for it.

    Ctrl-C then interrupts the waiting, and not an import of a native library half-way, which crashes the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="vivavoce-work", daemon=True).start()
    return _interruptible_result(future)


def _interruptible_result(future: Future[T]) -> T:
    """Wait for a result, and look for Ctrl-C meanwhile.

    Where a native library has taken over the signal and restarts what it interrupts (SA_RESTART), a wait without an end
    is not woken by it.
    """
    while not wait([future], _GLANCE).done:
        pass
    return future.result()


class OnModelThread:
    """An embedder whose work is done on the model thread."""

    def __init__(self, embedder: Embedder) -> None:
        """Wrap an embedder that computes in torch."""
        self._embedder = embedder
        self.name = embedder.name
        self.dim = embedder.dim
        self.fingerprint = embedder.fingerprint

    def embed(self, texts: Sequence[str], *, kind: Literal["query", "passage"] = "passage") -> NDArray[np.float32]:
        """See ``Embedder.embed``."""
        return on_model_thread(lambda: self._embedder.embed(texts, kind=kind))


def _interruptible_get(items: queue.SimpleQueue[T]) -> T:
    """Take the next item, and look for Ctrl-C meanwhile; see `_interruptible_result`."""
    while True:
        with suppress(queue.Empty):
            return items.get(timeout=_GLANCE)


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
        while not isinstance(item := _interruptible_get(items), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        cancelled.set()
        thread.join(_PATIENCE)
