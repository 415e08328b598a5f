"""A script run by two processes on this machine, started as a launcher starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_by_two(script, arguments, folder, timeout, cwd=None, **names):
    """Run it to its end, which must be a good one; what each process said lies in the folder.

    Args:
        script: of Python.
        arguments: strings.
        folder: that exists.
        timeout: seconds.
        cwd: where the processes stand.
        names: further environment variables.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    names |= {"HF_HUB_OFFLINE": 1, "PYTHONPATH": Path(__file__).parents[2]}
    running = []
    for rank in (0, 1):
        own = {name: str(value) for name, value in (names | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        with (folder / f"process{rank}.txt").open("w") as said:
            started = [sys.executable, script, *arguments]
            running.append(
                subprocess.Popen(started, cwd=cwd, env=os.environ | own, stdout=said, stderr=subprocess.STDOUT)
            )
    try:
        for process in running:
            process.wait(timeout=timeout)
    finally:
        for process in running:
            process.kill()
    said = [(folder / f"process{rank}.txt").read_text()[-3000:] for rank in (0, 1)]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
