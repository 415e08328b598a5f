"""What a trial is chosen by, read from the file that `best` writes."""

import json
import math

import pytest
from sweep_validation import write_validation

from quail_lightning.sweep.figures import TrialFailed, is_same_yardstick, read_validation


def test_figures_are_the_worst_formats_of_the_best_epoch(tmp_path):
    write_validation(tmp_path, (2.0, 2.0), (3.5, 2.25), (3.5, 4.0))
    content = json.loads((tmp_path / "validation.json").read_text())
    assert len(content["epochs"]) == 3
    found = read_validation(tmp_path)
    assert found.best.epoch == 2
    assert found.best.forgetting == pytest.approx(0.5)
    assert found.best.utility == pytest.approx(math.exp(-0.25))
    assert found.target_gap == pytest.approx(3.0)
    assert found.below(0.5).epoch == 3
    assert found.below(0.1) is found.below(None) is None


def test_nothing_is_known_before_the_first_epoch(tmp_path):
    assert read_validation(tmp_path) is None


def test_an_edited_file_and_one_without_retain_windows_are_no_figures(tmp_path):
    write_validation(tmp_path, (2.0, 2.0), retain_windows=0)
    with pytest.raises(TrialFailed, match="no retain window"):
        read_validation(tmp_path)
    path = tmp_path / "validation.json"
    path.write_text(path.read_text().replace("4.0", "3.0"))
    with pytest.raises(TrialFailed, match="was edited"):
        read_validation(tmp_path)


def test_another_target_or_goal_is_another_yardstick(tmp_path):
    write_validation(tmp_path / "a", (2.0, 2.0))
    write_validation(tmp_path / "b", (3.0, 3.0), target=(1.001, 2.0))
    write_validation(tmp_path / "c", (2.0, 2.0), goal=4.5)
    one, rounded, other = (read_validation(tmp_path / name).yardstick for name in "abc")
    assert is_same_yardstick(one, rounded)
    assert not is_same_yardstick(one, other)
