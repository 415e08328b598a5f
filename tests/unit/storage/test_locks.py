"""Locks between processes: refused with the holder's number, gone with the process."""

import subprocess
import sys
from pathlib import Path

import pytest

from quail_lightning.errors import InputError
from quail_lightning.storage.locks import hold, lock_beside, lock_in, released_afterwards

PACKAGE = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from quail_lightning.storage.locks import hold
hold(Path(sys.argv[1]), "it", shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts a process that holds a lock until it is killed."""
    started = []

    def start(lock, kind="alone"):
        command = [sys.executable, "-c", HOLD, str(lock), kind]
        process = subprocess.Popen(command, cwd=PACKAGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def kill(process):
    process.kill()
    process.wait()


@pytest.mark.parametrize("lock_of", [lock_in, lambda folder: folder], ids=["file", "folder"])
def test_another_process_is_named_and_a_killed_one_leaves_no_lock(tmp_path, holder, lock_of):
    process = holder(lock_of(tmp_path))
    with pytest.raises(InputError, match=f"the run is in use by process {process.pid}"):
        hold(lock_of(tmp_path), "the run")
    kill(process)
    with released_afterwards():
        hold(lock_of(tmp_path), "the run")
    assert not list(tmp_path.iterdir()), "no file is left"


def test_readers_share_and_keep_the_remover_out(tmp_path, holder):
    process = holder(tmp_path, "shared")
    with released_afterwards():
        hold(tmp_path, "the cache", shared=True)
        with pytest.raises(InputError, match=f"in use by process {process.pid}"):
            hold(tmp_path, "the cache")
    kill(process)
    with released_afterwards():
        hold(tmp_path, "the cache")


def test_one_that_waits_says_for_whom_and_goes_on_when_it_has_ended(tmp_path, holder, capsys):
    process = holder(lock_beside(tmp_path / "target"))
    process.stdin.close()  # it ends a moment later
    with released_afterwards():
        hold(lock_beside(tmp_path / "target"), "target", wait=True)
    assert capsys.readouterr().out in ("", f"target is in use by process {process.pid}: waiting for its end.\n")


def test_holding_twice_in_one_process_is_holding_once(tmp_path, holder):
    with released_afterwards():
        hold(lock_in(tmp_path), "the run")
        with released_afterwards():
            hold(lock_in(tmp_path), "the run")
        assert lock_in(tmp_path).is_file(), "the outer one is still held"
    kill(holder(lock_in(tmp_path)))


def test_a_link_is_no_lock_file(tmp_path):
    (tmp_path / "precious").write_text("kept")
    lock_in(tmp_path).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        hold(lock_in(tmp_path), "the run")
    assert (tmp_path / "precious").read_text() == "kept"
