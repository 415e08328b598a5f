"""Results survive the way to disk and back."""

import csv
import json

import pytest

from quail_lightning.results import Estimate, ResultRow, Undefined, read_results, write_results

ROWS = [
    ResultRow("target", "bf16", {"verbmem_forget": Estimate(97.5, 24, 95.0, 99.0, scores=(1.0, 2.0))}),
    ResultRow("unlearned", "nf4", {"recovery_verbmem_forget": Undefined("nothing was forgotten")}, epoch=3),
]


def test_results_are_read_back_as_written(tmp_path):
    write_results(tmp_path / "run", ROWS, note="cut from windows")
    assert read_results(tmp_path / "run") == ROWS
    assert json.loads((tmp_path / "run/results.json").read_text())["note"] == "cut from windows"


def test_csv_has_one_line_a_figure_and_never_a_zero_for_an_undefined_one(tmp_path):
    write_results(tmp_path, ROWS)
    lines = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [line["metric"] for line in lines] == ["verbmem_forget", "recovery_verbmem_forget"]
    assert lines[0]["value"] == "97.5"
    assert lines[1]["value"] == ""
    assert lines[1]["reason"] == "nothing was forgotten"


def test_a_figure_that_is_not_a_number_is_never_written(tmp_path):
    rows = [ResultRow("target", "bf16", {"nll_forget": Estimate(float("nan"), 1, 0.0, 0.0)})]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path, rows)
    assert not (tmp_path / "results.json").exists()
