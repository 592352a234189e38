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
    """One call of a recogniser, and its result once it has run.

    Args:
        work: Makes the call; returns None if the cut that it decodes from does not fit.
        at: Seconds of the stream up to which the audio of the call reaches.
        silent_from: Seconds of the stream at which the last speech in it ends.
    """

    def __init__(self, work: Callable[[], Transcript | None], at: float, silent_from: float) -> None:
        self._work = work
        self.at = at
        self.silent_from = silent_from
        self.needed = False  # a job that is needed is not dropped for a newer one
        self.misfit = False  # the decode after the cut does not continue the committed words
        self.seconds = 0.0  # that the call took in a thread; 0 if it was made inline
        self.transcript: Transcript | None = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Make the call, and store its transcript or its error."""
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

    def submit(self, job: Job) -> None:
        """Run a job, now or later."""
        ...

    def close(self) -> None:
        """Run no further jobs."""
        ...


class InlineWorker:
    """Runs each job at once, in the thread that submits it."""

    busy = False

    def submit(self, job: Job) -> None:
        """Run a job at once."""
        job.run()

    def close(self) -> None:
        """There is nothing to stop."""


class ThreadWorker:
    """Runs jobs in one background thread; a waiting job is dropped for a newer one unless its result is needed."""

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

    def submit(self, job: Job) -> None:
        """Queue a job behind those whose result is needed, and drop the other waiting ones."""
        with self._change:
            for stale in [waiting for waiting in self._waiting if not waiting.needed]:
                self._waiting.remove(stale)
                stale.done.set()
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_jobs, name="vivavoce-recognizer", daemon=True)
                self._thread.start()
            self._change.notify()

    def close(self) -> None:
        """Drop the waiting jobs, and wait for the running one."""
        with self._change:
            self._closed = True
            for job in self._waiting:
                job.done.set()
            self._waiting.clear()
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _run_jobs(self) -> None:
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
