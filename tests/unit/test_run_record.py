"""What a run was started on is kept with it."""

import json
import subprocess
from importlib.metadata import version

from quail_lightning.run_record import add_start, git_revision


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
