"""The thread in which a stream's recognisers run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..transcript import Transcript

logger = logging.getLogger(__name__)


class Job:
    """One call of a recogniser."""

    def __init__(self, work: Callable[[], Transcript | None], at: float, silent_from: float) -> None:
        self._work = work
        self.at = at
        self.silent_from = silent_from
        self.needed = False
        self.misfit = False  # the sound was cut where it should not be
        self.seconds = 0.0  # of work, where the stream does not wait for it
        self.transcript: Transcript | None = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Make the call, and keep what it returns or raises."""
        try:
            self.transcript = self._work()
            self.misfit = self.transcript is None
        except Exception as error:
            self.error = error
        finally:
            del self._work  # it holds the jobs before it, and their sound
            self.done.set()


class Worker(Protocol):
    """Runs jobs one at a time."""

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting."""
        ...

    def ask(self, job: Job) -> None:
        """Have a job run."""
        ...

    def close(self) -> None:
        """Run nothing more."""
        ...


class InlineWorker:
    """Runs a job when it is asked for."""

    busy = False

    def ask(self, job: Job) -> None:
        """Run it now."""
        job.run()

    def close(self) -> None:
        """There is nothing to stop."""


class ThreadWorker:
    """Runs jobs in a thread. A job that waits gives way to a newer one, unless its answer is needed."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: list[Job] = []
        self._running = self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting."""
        with self._change:
            return self._running or bool(self._waiting)

    def ask(self, job: Job) -> None:
        """Put a job behind those whose answer is needed; others that wait are dropped."""
        with self._change:
            for stale in [other for other in self._waiting if not other.needed]:
                self._waiting.remove(stale)
                stale.done.set()
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vivavoce-recognizer", daemon=True)
                self._thread.start()
            self._change.notify()

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        with self._change:
            self._closed = True
            for job in self._waiting:
                job.done.set()
            self._waiting.clear()
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._running = False
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job, self._running = self._waiting.pop(0), True
            began = time.perf_counter()
            job.run()
            job.seconds = time.perf_counter() - began
