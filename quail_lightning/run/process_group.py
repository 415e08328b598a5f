"""Run a program and all that it starts, and end them together when the process that asked for it ends.

``python -m quail_lightning.run.process_group PROGRAM ...``, started by ``dependent_process``. The program is none
of ours and knows nothing of the pipe, so this process watches it in its place. It must outlive who asked, so it
leaves the terminal's session, all of which a closed window ends, and the process group that a kill may be sent to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from quail_lightning.run.parent import GRACE, VARIABLE

UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # who asked decides what ends


def run_together(command: Sequence[str], pipe: int) -> int:
    """The program's exit status, negative: of a signal.

    Args:
        command: the program and its arguments; it leads a process group, so that its children are reached too.
        pipe: descriptor that closes with the process that asked for it.
    """
    for number in UNHEARD:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the program would inherit
    with suppress(PermissionError):  # it was started by hand, and leads a process group already
        os.setsid()
    process = subprocess.Popen(command, start_new_session=True)
    threading.Thread(target=_end_with_pipe, args=(process, pipe), daemon=True).start()
    status = process.wait()
    _signal_group(process.pid, signal.SIGKILL)  # what the program left behind
    return status


def _end_with_pipe(process: subprocess.Popen[bytes], pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written: it returns when the other end is closed
    _signal_group(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says so by the second
        os.killpg(group, number)


if __name__ == "__main__":
    raise SystemExit(run_together(sys.argv[1:], int(os.environ.pop(VARIABLE))) % 256)
