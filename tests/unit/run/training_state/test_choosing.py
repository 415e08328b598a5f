"""A checkpoint is used whole or named as damaged, with the one before it."""

import json
import re

import pytest

from quail_lightning.errors import InputError
from quail_lightning.run.training_state import checkpoints_in, last_checkpoint, newest_run, write_manifest
from quail_lightning.run.training_state.choosing import check_intact
from quail_lightning.run.training_state.folders import checkpoint_folder, remove_old


@pytest.fixture
def run(tmp_path):
    for step in (3, 20, 100):
        folder = checkpoint_folder(tmp_path, step)
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(f"the state at {step}")
        write_manifest(folder)
    return tmp_path


def truncate(folder):
    (folder / "state.json").write_text("the")


def edit(folder):
    (folder / "state.json").write_text("the state at 200"[:16].replace("200", "10x"))


def remove(folder):
    (folder / "state.json").unlink()


def remove_manifest(folder):
    (folder / "manifest.json").unlink()


def cut_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-9])


def edit_manifest(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = {}
    path.write_text(json.dumps(content))


DAMAGES = [
    (truncate, r"state\.json has 3 bytes instead of 16"),
    (edit, r"state\.json is damaged"),
    (remove, r"state\.json is missing"),
    (remove_manifest, r"manifest\.json is missing"),
    (cut_manifest, r"manifest\.json cannot be read"),
    (edit_manifest, r"manifest\.json was edited"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_named_and_the_intact_one_before_offered(damage, named, run):
    newest, older, oldest = (checkpoint_folder(run, step) for step in (100, 20, 3))
    check_intact(newest)
    damage(newest)
    with pytest.raises(InputError, match=named + rf".*--ckpt_path {re.escape(str(older))}\.$"):
        check_intact(newest)
    truncate(older)
    with pytest.raises(InputError, match=rf"--ckpt_path {re.escape(str(oldest))}\.$"):
        check_intact(newest)
    truncate(oldest)
    with pytest.raises(InputError, match="no intact one before it"):
        check_intact(newest)


def test_checkpoints_are_ordered_by_step_and_unfinished_ones_are_none(run):
    (run / "checkpoints/.step-00000101.partial").mkdir()
    (run / "checkpoints/step-x").mkdir()
    assert [checkpoint.step for checkpoint in checkpoints_in(run)] == [3, 20, 100]
    assert last_checkpoint(run).run == run


def test_only_the_last_ones_are_kept_and_what_killed_writes_left_is_removed(run):
    (run / "checkpoints/.step-00000101.partial").mkdir()
    remove_old(run, keep=2)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000020", "step-00000100"]


def test_newest_run_is_the_one_whose_last_checkpoint_is_youngest(run, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert newest_run(runs) is None
    for name in ("b", "a"):
        folder = checkpoint_folder(runs / name, 1)
        folder.mkdir(parents=True)
    (runs / "without").mkdir()
    import os

    os.utime(checkpoint_folder(runs / "b", 1), ns=(1, 1))
    assert newest_run(runs) == runs / "a"
