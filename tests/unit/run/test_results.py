"""Results survive the way to disk and back."""

import csv
import json

import pytest

from quail_lightning.errors import InputError
from quail_lightning.run.results import (
    Estimate,
    ResultRow,
    Undefined,
    read_results,
    read_scores,
    write_results,
    write_scores,
)

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


SETTINGS = {"precisions": ["bf16"], "hub": {"token": "s3cret"}}


def test_scores_are_read_back_with_their_records_and_keep_no_secret(tmp_path):
    write_scores(tmp_path, ROWS, SETTINGS)
    (target, _) = read_scores(tmp_path, SETTINGS)
    assert target.metrics["verbmem_forget"].scores == (1.0, 2.0)
    assert "s3cret" not in (tmp_path / "scores.json").read_text()
    with pytest.raises(InputError, match="other settings"):
        read_scores(tmp_path, SETTINGS | {"precisions": ["nf4"]})


@pytest.mark.parametrize(
    "damage", [lambda text: text.replace("97.5", "7.5"), lambda text: text[:50], lambda _: "[]"]
)
def test_edited_scores_are_said_to_be_and_not_believed(tmp_path, damage, capsys):
    write_scores(tmp_path, ROWS, SETTINGS)
    (tmp_path / "scores.json").write_text(damage((tmp_path / "scores.json").read_text()))
    assert read_scores(tmp_path, SETTINGS) == []
    assert "what was evaluated before is evaluated again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"rows": 3}',
        '{"rows": [{"model": "m"}]}',
        '{"rows": [{"model": "m", "precision": "p", '
        '"epoch": 1, "metrics": {"x": {"value": NaN, "n": 1, "low": 0, "high": 0}}}]}',
    ],
)
def test_damaged_results_are_one_error_that_names_the_file(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results\.json cannot be read \(it is damaged\)"):
        read_results(tmp_path)


def test_a_figure_that_is_not_a_number_is_never_written(tmp_path):
    rows = [ResultRow("target", "bf16", {"nll_forget": Estimate(float("nan"), 1, 0.0, 0.0)})]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path, rows)
    assert not (tmp_path / "results.json").exists()
