"""A slow step is named; a quick one is not."""

import time

import pytest

from quail_lightning import terminal
from quail_lightning.terminal import begin_command, step


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.05)
    monkeypatch.setattr(terminal, "SELDOM", 0.1)
    monkeypatch.setattr(terminal, "_silent_since", None)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def wait(until):
    end = time.monotonic() + 5
    while not until() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_slow_step_is_named_on_stderr_and_again_later(capsys):
    said = []
    with step("loading it"):
        wait(lambda: said.append(capsys.readouterr()) or len([s for s in said if s.err]) == 2)
    assert all(s.err.startswith("loading it ...") and not s.out for s in said if s.err)


def test_a_quick_step_is_silent(capsys):
    with step("loading it"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_step_inside_speaks_for_both(capsys):
    with step("outside"), step("inside"):
        time.sleep(0.25)
    said = capsys.readouterr().err
    assert "inside ..." in said
    assert "outside" not in said


def test_quick_steps_that_fill_the_time_are_named_too(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.6)
    begin_command()
    for name in "abcde":
        with step(name):
            time.sleep(0.25)
    assert capsys.readouterr().err.count("...") == 1


def test_the_first_process_alone_speaks(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with step("loading it"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
