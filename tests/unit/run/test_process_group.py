"""A program that knows nothing of it ends with the one that started it, and so do its children."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import is_running

from quail_lightning.run.parent import dependent_process

GROUP = [sys.executable, "-m", "quail_lightning.run.process_group", sys.executable, "-c"]
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys
from quail_lightning.run.parent import dependent_process
with dependent_process(sys.argv[1:]) as process:
    process.wait()
"""


def ended(pids):
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def numbers(path):
    deadline = time.monotonic() + 20
    while not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(number) for number in path.read_text().split()]


def as_in_a_terminal():
    """Signals that nohup and background jobs ignore are not ignored; nothing dumps core."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


of_a_terminal = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name
)
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@linux
@of_a_terminal
def test_the_end_of_the_block_ends_the_program_and_its_children(number, tmp_path):
    with open(tmp_path / "log", "wb") as output, dependent_process([*GROUP, FAMILY], {}, output) as process:
        pids = numbers(tmp_path / "log")
        os.kill(process.pid, number)  # a signal may reach it too, and is for the one that started it
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert all(map(is_running, pids))
    assert process.wait(10) != 0
    ended(pids)


@linux
def test_a_killed_parent_ends_them_too(tmp_path):
    with open(tmp_path / "log", "wb") as output:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, *GROUP, FAMILY], stdout=output)
    pids = numbers(tmp_path / "log")
    parent.kill()
    parent.wait(10)
    ended(pids)


@linux
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL], ids=lambda each: each.name)
def test_a_signal_to_all_in_the_parent_s_terminal_ends_them_too(number, tmp_path):
    command = [sys.executable, "-c", PARENT, *GROUP, FAMILY]
    with open(tmp_path / "log", "wb") as output:
        parent = subprocess.Popen(command, stdout=output, start_new_session=True, preexec_fn=as_in_a_terminal)
    pids = numbers(tmp_path / "log")
    os.killpg(parent.pid, number)
    assert parent.wait(10) == -number
    ended(pids)


@linux
def test_what_a_program_leaves_behind_is_ended_with_it(tmp_path):
    left = FAMILY.replace("time.sleep(60)\n", "raise SystemExit(3)\n")
    with open(tmp_path / "log", "wb") as output, dependent_process([*GROUP, left], {"A": "b"}, output) as process:
        assert process.wait(20) == 3
    ended(numbers(tmp_path / "log"))
