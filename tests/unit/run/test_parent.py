"""A started process ends with the one that started it, however that one ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import is_running

PACKAGE = Path(__file__).parents[3]
CHILD = """
import os, signal, sys, time
from quail_lightning.run import parent
parent.GRACE = 0.2
parent.end_with_parent()
assert parent.VARIABLE not in os.environ
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, lambda *_: None)
print(os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""
PARENT = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it
from quail_lightning.run.parent import dependent_process
with dependent_process([sys.executable, "-c", sys.argv[1], sys.argv[2]]) as process:
    process.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("child", ["plain", "stubborn"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_parent_takes_its_child_with_it(child, how):
    command = [sys.executable, "-c", PARENT, CHILD, child]
    parent = subprocess.Popen(command, cwd=PACKAGE, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    try:
        assert is_running(pid)
        parent.send_signal(how)
        parent.wait(timeout=10)
        deadline = time.monotonic() + 10
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        parent.stdout.close()
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
