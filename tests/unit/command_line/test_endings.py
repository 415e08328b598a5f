"""Every end that a user can cause is a line and an exit status; a fault of the program is neither."""

import errno
import io
import sys
import threading

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

from quail_lightning import cli
from quail_lightning.command_line.endings import ending, report_thread
from quail_lightning.errors import InputError, RunError, add_hint


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (InputError("it is wrong", given=3), "error: it is wrong; got 3.", 2),
        (RunError("it broke", remedy="Mend it"), "error: it broke. Mend it.", 1),
        (KeyboardInterrupt(), "interrupted. Go on.", 130),
        (OSError(errno.ENOSPC, "", "a/b"), "a/b: No space left on device. Make room on that disk. Go on.", 1),
        (OSError(errno.EDQUOT, "", "a/b"), "Make room on that disk. Go on.", 1),
        (OSError(errno.EROFS, "", "a/b"), "a/b: Read-only file system. Take a folder that", 1),
        (PermissionError(errno.EACCES, "", "a/b"), "a/b: Permission denied.", 1),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a/b"), "error: a/b: Is a directory.", 1),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "error: a/b: Not a directory.", 1),
        (SafetensorError("Error while serializing: I/O error: No space (os error 28)"), "No space left", 1),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory is short (CUDA out of memory)", 1),
        (MisconfigurationException("`max_epochs` must be positive"), "`max_epochs` must be positive", 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_user_can_cause_is_one_line(error, said, status):
    message, found = ending(raised(error), "Go on")
    assert said in message
    assert found == status
    assert "\n" not in message
    assert ending(raised(RuntimeError("wrapped"), error), "Go on") == (message, found)


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("no number"), KeyError("x"), SystemExit(2)])
def test_anything_else_is_a_fault_of_the_program(error):
    assert ending(raised(error), "Go on") is None


def test_lightning_answers_ctrl_c_by_an_exit_status_of_its_own():
    ended = SystemExit(1)
    ended.__context__ = KeyboardInterrupt()  # raised while that was handled
    add_hint(ended, "Use --ckpt_path last")
    assert ending(ended, "Go on") == ("interrupted. Use --ckpt_path last.", 130)


def test_a_full_disk_in_a_thread_is_one_line_and_a_bug_there_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", report_thread)
    for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug")):
        thread = threading.Thread(target=lambda error=error: (_ for _ in ()).throw(error))
        thread.start()
        thread.join()
        said = capsys.readouterr().err
        assert ("Traceback" in said) == isinstance(error, ValueError)
    assert "a bug" in said


@pytest.mark.parametrize("verb", [*cli.TRAINER_VERBS, *cli.SWEEP, *cli.VERBS])
def test_ctrl_c_in_any_verb_says_how_to_go_on(verb, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main([verb])
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"interrupted. {cli.GO_ON.get(verb, cli.ANEW)}.\n"


def test_a_reader_that_has_gone_is_no_error(monkeypatch):
    def written(_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_run", written)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    cli.main(["clean"])
