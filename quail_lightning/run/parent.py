"""A process that ends when the one that started it does, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VARIABLE = "QUAIL_PARENT_PIPE"  # number of the descriptor that closes with the parent
GRACE = 10.0  # seconds to finish a step and write a checkpoint


@contextmanager
def dependent_process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that notices this one's end by a pipe of which only this one holds the other end.

    A kernel closes the pipe of a killed process too, on every system. Linux' PR_SET_PDEATHSIG would say the same,
    but only there, and with a signal that leaves no time for a checkpoint if it is to be certain.
    """
    theirs, own = os.pipe()
    try:
        try:
            process = subprocess.Popen(command, pass_fds=[theirs], env=os.environ | {VARIABLE: str(theirs)})
        finally:
            os.close(theirs)
        yield process
    finally:
        os.close(own)


def end_with_parent() -> None:
    """In a process of ``dependent_process``: SIGTERM when the parent has ended, and SIGKILL after ``GRACE``."""
    given = os.environ.pop(VARIABLE, None)  # not for the processes that this one starts
    if given is None:
        return
    pipe = int(given)
    os.set_inheritable(pipe, False)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()


def _watch(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
