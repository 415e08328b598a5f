"""A link beside the runs leads to the one that began to train last."""

import os
from pathlib import Path

import pytest

from quail_lightning.commands.leftovers import leftovers
from quail_lightning.run.latest import point_latest_to, settled
from quail_lightning.run.training_state import newest_run


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quail-1", "quail-2"):
        step = Path(f"logs/news/{name}/checkpoints/step-00000004")
        step.mkdir(parents=True)
        (step / "state.json").write_text("{}")
    return Path("logs/news")


def test_the_link_follows_the_newest_run_and_is_relative(runs, tmp_path):
    for name in ("quail-1", "quail-2"):
        point_latest_to(runs / name)
        assert os.readlink(runs / "latest") == name
    assert {path.name for path in runs.iterdir()} == {"quail-1", "quail-2", "latest"}
    runs.parent.rename(tmp_path / "moved")
    assert (tmp_path / "moved/news/latest/checkpoints").is_dir()


def test_a_folder_of_that_name_is_left_alone(runs):
    (runs / "latest").mkdir()
    (runs / "latest/mine").touch()
    point_latest_to(runs / "quail-1")
    point_latest_to(runs / "latest")
    assert [path.name for path in (runs / "latest").iterdir()] == ["mine"]


def test_a_link_to_a_run_that_was_removed_is_replaced(runs):
    (runs / "latest").symlink_to("gone")
    point_latest_to(runs / "quail-1")
    assert os.readlink(runs / "latest") == "quail-1"


def test_where_no_link_can_be_made_a_line_says_so(runs, monkeypatch, capsys):
    def refuse(self, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    point_latest_to(runs / "quail-1")
    assert "logs/news/latest cannot be made a link to logs/news/quail-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("logs/news/latest/model", "logs/news/quail-2/model"),
        ("--model.start=logs/news/latest/model", "--model.start=logs/news/quail-2/model"),
        ("--models=[a, logs/news/latest/model]", "--models=[a, logs/news/quail-2/model]"),
        ("logs/news/latest", "logs/news/quail-2"),
        ("logs/news/latest.old/model", "logs/news/latest.old/model"),
        ("logs/other/latest/model", "logs/other/latest/model"),
        ("the latest model", "the latest model"),
        ("org/latest", "org/latest"),
    ],
)
def test_a_command_names_the_run_itself(given, meant, runs):
    point_latest_to(runs / "quail-2")
    assert settled(given) == meant


def test_neither_resuming_nor_clean_takes_the_link_for_a_run(runs):
    point_latest_to(runs / "quail-2")
    assert newest_run(runs).name == "quail-2"
    found = {left.folder for left in leftovers([Path("logs")])}
    assert found == {runs / f"{name}/checkpoints/step-00000004" for name in ("quail-1", "quail-2")}
    assert len(leftovers([runs / "latest", runs / "quail-2"])) == 1
