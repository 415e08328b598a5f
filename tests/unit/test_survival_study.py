"""The driver of the study of what survives: its commands, and the figures that it makes of results."""

import json
import math
from pathlib import Path

import pytest
import survival

from quail_lightning.cli import main
from quail_lightning.run.results import Estimate, ResultRow, write_results

ONE_OF_EACH = [
    (name, cell)
    for name, study in survival.STUDIES.items()
    for cell in {cell.method: cell for cell in (*study.later, *study.cells)}.values()
]


def a_run(name, out):
    study = survival.STUDIES[name]
    return survival.Run(study, name, out, out / "corpus", "smollm2", study.precisions, None)


@pytest.mark.parametrize(("name", "cell"), ONE_OF_EACH, ids=lambda each: getattr(each, "name", each))
def test_every_method_passes_the_parser_with_the_cell_s_options(name, cell, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*a_run(name, tmp_path).fitting(cell), "--print_config"])
    assert ended.value.code in (None, 0)
    printed = capsys.readouterr().out
    assert f"weight_precision: {cell.weights}" in printed
    assert f"version: {cell.name}" in printed


def test_cells_that_differ_have_names_that_differ():
    for study in survival.STUDIES.values():
        names = [cell.name for cell in (*study.cells, *study.later)]
        assert len(set(names)) == len(names)


def results(run, cell, unlearned):
    """Of target, retrained and a cell's model: precision → M1, NLL of the retain text."""

    def estimate(value):
        return Estimate(value, 8, value - 1, value + 1)

    models = {
        str(run.models["target"]): {"bf16": (70.0, 0.1), "fp4": (60.0, 0.5), "prune30": (50.0, 0.4)},
        f"{run.models['retrained']} (retrained)": dict.fromkeys(("bf16", "fp4", "prune30"), (12.0, 0.2)),
        str(run.model(cell)): unlearned,
    }
    rows = [
        ResultRow(model, precision, {survival.M1: estimate(m1), survival.NLL_RETAIN: estimate(nll)})
        for model, found in models.items()
        for precision, (m1, nll) in found.items()
    ]
    write_results(run.out / "evaluated" / cell.name, rows)


def test_the_summary_is_the_largest_return_over_formats_and_the_smallest_share_of_utility(tmp_path):
    run = a_run("quick", tmp_path)
    base, ours = survival.Cell("ga_gdr", "bf16-nearest", "1e-5"), survival.Cell(survival.OURS)
    results(run, base, {"bf16": (14.0, 0.3), "fp4": (25.0, 0.9), "prune30": (60.0, 0.9)})
    results(run, ours, {"bf16": (13.0, 0.15), "fp4": (11.5, 0.52), "prune30": (30.0, 0.9)})
    found = survival.summary(run, [base, ours])
    assert found["worst_return_baseline"] == pytest.approx(25.0 - 14.0)  # an attack is no format
    assert found["worst_return_robust"] == pytest.approx(1.5)
    assert found["utility_share_robust"] == pytest.approx(100 * math.exp(0.1 - 0.15))
    at = found["cells"][1]["precisions"]["fp4"]
    assert at["utility_share"] == pytest.approx(100 * math.exp(0.5 - 0.52))
    assert at["figures"][survival.M1] == {"value": 11.5, "n": 8, "low": 10.5, "high": 12.5}
    json.dumps(found)


def test_a_hardened_model_counts_in_the_formats_that_it_was_hardened_for(tmp_path):
    run = a_run("quick", tmp_path)
    cell = survival.Cell("ga_gdr", "bf16-nearest", "1e-5", hardened="fp4+nf4")
    results(run, cell, {"bf16": (14.0, 0.3), "fp4": (15.0, 0.9), "prune30": (60.0, 0.9)})
    found = survival.summary(run, [cell])
    assert found["worst_return_hardened"] == pytest.approx(1.0)
    assert found["utility_share_hardened"] == pytest.approx(100 * math.exp(0.5 - 0.9))
    assert found["worst_return_baseline"] is found["worst_return_robust"] is None
    assert found["cells"][0]["hardened"] == "fp4+nf4"


@pytest.mark.parametrize("name", survival.STUDIES)
def test_a_hardened_cell_is_made_of_the_plain_one(name, tmp_path, monkeypatch, capsys):
    run, asked = a_run(name, tmp_path), []
    monkeypatch.setattr(
        survival, "drive", lambda log, command, threads: asked.append([str(each) for each in command])
    )
    cell = survival.Cell("ga_gdr", hardened="fp4+q4_0")
    run.unlearn(cell)
    plain = survival.Cell("ga_gdr")
    assert asked[0] == run.fitting(plain)
    with pytest.raises(SystemExit) as ended:
        main([*asked[1], "--print_config"])
    assert ended.value.code in (None, 0)
    printed = capsys.readouterr().out
    assert f"model: {run.model(plain)}" in printed
    assert f"out: {run.model(cell)}" in printed
    assert "- q4_0" in printed


def test_what_was_not_run_is_no_figure(tmp_path):
    run = a_run("quick", tmp_path)
    base = survival.Cell("ga_gdr", "bf16-nearest", "1e-5")
    results(run, base, {"bf16": (14.0, 0.3), "fp4": (25.0, 0.9), "prune30": (60.0, 0.9)})
    assert survival.summary(run, [base])["worst_return_robust"] is None
    assert survival.summary(run, [base])["utility_share_robust"] is None


def test_the_study_on_news_asks_for_the_corpus(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["survival.py", "--study", "small"])
    with pytest.raises(SystemExit, match="--corpus FOLDER"):
        survival.main()


def test_formats_that_no_method_is_trained_through_are_not_those_of_the_robust_method():
    text = (Path(survival.__file__).parents[1] / "configs/method/robust.yaml").read_text("utf-8")
    assert all(f"{name}," not in text and f"{name}]" not in text for name in survival.HELD_OUT)
    assert all(name in text for name in survival.TRAINED_THROUGH)
