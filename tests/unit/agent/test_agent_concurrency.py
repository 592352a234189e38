"""The thread in which models compute: there is one, and a forked child has one of its own."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from vivavoce.agent.concurrency import on_model_thread


def test_models_compute_in_one_thread():
    first, inner = on_model_thread(lambda: (threading.get_ident(), on_model_thread(threading.get_ident)))
    assert first == inner == on_model_thread(threading.get_ident) != threading.get_ident()


def test_what_goes_wrong_there_is_heard_of_here():
    with pytest.raises(ZeroDivisionError):
        on_model_thread(lambda: 1 / 0)


# Of a process of its own: this one has threads, and Python warns of forks in such a process.
FORKS = """
import multiprocessing, os, sys
from vivavoce.agent.concurrency import on_model_thread

def in_child(sender):
    sender.send((os.getppid(), on_model_thread(os.getpid), os.getpid()))

def fork():
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(sender,), daemon=True)
    child.start()
    if not receiver.poll(60):
        child.kill()
        sys.exit("the child waits for a thread that is not there")
    assert receiver.recv() == (os.getpid(), child.pid, child.pid)
    child.join()
    assert child.exitcode == 0

context = multiprocessing.get_context("fork")
assert on_model_thread(os.getpid) == os.getpid()
fork()
assert on_model_thread(os.getpid) == os.getpid(), "the parent goes on"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_child_has_a_model_thread_too():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
