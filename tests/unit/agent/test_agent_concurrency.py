"""The thread in which models compute: there is one, and a forked child has one of its own."""

from __future__ import annotations

import signal
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


# A library that takes over a signal may have whatever it interrupts go on, as here; then no wait is woken by Ctrl-C.
RESTARTS = """
import signal, sys, threading
from vivavoce.agent.concurrency import in_thread, on_model_thread, pull

def wait_for_ever():
    print("waiting", flush=True)
    threading.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.siginterrupt(signal.SIGINT, False)
try:
    if sys.argv[1] == "pull":
        next(pull(lambda emit: wait_for_ever(), threading.Event()))
    else:
        {"in_thread": in_thread, "on_model_thread": on_model_thread}[sys.argv[1]](wait_for_ever)
except KeyboardInterrupt:
    import os
    os._exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no siginterrupt")
@pytest.mark.parametrize("wait", ["in_thread", "on_model_thread", "pull"])
def test_ctrl_c_ends_a_wait_that_signals_do_not_wake(wait):
    process = subprocess.Popen([sys.executable, "-c", RESTARTS, wait], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout.readline() == b"waiting\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 130
        finally:
            process.kill()
