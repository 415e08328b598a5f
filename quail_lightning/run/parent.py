"""A process that ends when the one that started it does, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

VARIABLE = "QUAIL_PARENT_PIPE"  # number of the descriptor that closes with the parent
GRACE = 10.0  # seconds to finish a step and write a checkpoint


@contextmanager
def dependent_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that notices this one's end by a pipe of which only this one holds the other end.

    A kernel closes the pipe of a killed process too, on every system. Linux' PR_SET_PDEATHSIG would say the same,
    but only there, and with a signal that leaves no time for a checkpoint if it is to be certain.

    Args:
        command: of a program that calls ``end_with_parent``, or ``process_group`` with one that does not.
        environment: variables that it gets besides this process's own.
        output: takes what it writes, of both kinds; None: this process's own.
    """
    told = None if output is None else subprocess.STDOUT
    theirs, own = os.pipe()
    try:
        try:
            given = os.environ | dict(environment or {}) | {VARIABLE: str(theirs)}
            process = subprocess.Popen(command, pass_fds=[theirs], env=given, stdout=output, stderr=told)
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
