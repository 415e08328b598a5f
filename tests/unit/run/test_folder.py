"""A run that came to nothing leaves no folder."""

import pytest

from quail_lightning.run.folder import missing_folders, remove_started


def started(run):
    made = missing_folders(run)
    run.mkdir(parents=True)
    for name in ("config.yaml", "run.json", "hparams.yaml", "events.out.tfevents.1.host.2.0", ".lock"):
        (run / name).touch()
    return made


def test_only_what_a_start_writes_is_removed_with_the_folders_that_it_made(tmp_path):
    remove_started(started(tmp_path / "logs/news/quail-1"))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path):
    (tmp_path / "logs").mkdir()
    remove_started(started(tmp_path / "logs/news/quail-1"))
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


@pytest.mark.parametrize("name", ["results.json", "model/config.json", "checkpoints/step-00000001/run.json"])
def test_a_run_that_computed_something_stays_whole(tmp_path, name):
    made = started(tmp_path / "quail-1")
    (tmp_path / "quail-1" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "quail-1" / name).touch()
    remove_started(made)
    assert (tmp_path / "quail-1/config.yaml").is_file()


def test_a_folder_that_was_there_before_is_not_touched(tmp_path):
    started(tmp_path / "quail-1")
    remove_started(missing_folders(tmp_path / "quail-1"))
    assert (tmp_path / "quail-1/config.yaml").is_file()
