"""What a run was started on is kept with it."""

import json
import stat
import subprocess
from importlib.metadata import version

import pytest

from quail_lightning.run.record import add_end, add_start, git_revision


def test_every_start_is_noted_beside_the_ones_before(tmp_path):
    add_start(tmp_path, {"seed": 42})
    add_start(tmp_path, {"seed": 7})
    first, second = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert (first["seed"], second["seed"]) == (42, 7)
    for start in (first, second):
        assert start["packages"]["torch"] == version("torch")
        assert start["packages"]["lightning"] == version("lightning")
        assert start["hardware"]["memory_gib"] > 0
        assert start["python"].startswith("3.")


def test_secrets_of_the_command_and_the_options_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["quail", "fit", "--data.token=s3cret", "--x.api_key", "s3cret", "--seed=1"])
    add_start(tmp_path, {"hub": {"password": "s3cret"}})
    text = (tmp_path / "run.json").read_text()
    assert "s3cret" not in text
    assert "--seed=1" in text
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": 3}'])
def test_a_damaged_record_does_not_keep_a_run_from_going_on(tmp_path, content, capsys):
    (tmp_path / "run.json").write_text(content)
    add_start(tmp_path, {"seed": 7})
    (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert start["seed"] == 7
    assert "run.json is damaged" in capsys.readouterr().err


def test_an_end_is_noted_with_the_last_start_alone(tmp_path):
    add_start(tmp_path, {})
    add_end(tmp_path, "interrupted")
    add_start(tmp_path, {})
    add_end(tmp_path, "finished")
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [start["outcome"] for start in starts] == ["interrupted", "finished"]
    (tmp_path / "run.json").unlink()
    add_end(tmp_path, "failed")
    assert not (tmp_path / "run.json").exists(), "a run that noted no start notes no end"


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_is_the_checkouts_own_and_says_whether_files_were_changed(tmp_path):
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    assert git_revision(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path)["changed"]
    (tmp_path / "below").mkdir()
    assert git_revision(tmp_path / "below") is None, "another project's checkout"
