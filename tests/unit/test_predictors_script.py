"""The script that sets predictors beside what came back, on fabricated cases."""

import numpy as np
import predictors
import pytest
from predictors import Case, correlation, correlations, returned, table

from quail_lightning.run.results import Estimate, ResultRow, Undefined, write_results


def cases(foreseen, came_back, runs=4):
    """Cases of so many runs, in turns."""
    pairs = zip(foreseen, came_back, strict=True)
    return [Case(f"run{n % runs}", f"format{n}", back, 2.0, {"it": told}) for n, (told, back) in enumerate(pairs)]


def by_hand(first, second):
    """Spearman's ρ of values without ties: 1 − 6 Σd² / (n³ − n)."""
    ranks = [np.argsort(np.argsort(each)) for each in (first, second)]
    return 1 - 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (len(first) ** 3 - len(first))


def test_correlation_is_spearmans():
    rng = np.random.default_rng(3)
    told = rng.normal(size=20)
    back = -told + rng.normal(size=20)
    found = correlation(cases(told.tolist(), back.tolist()), "it")
    assert found.spearman == pytest.approx(by_hand(told, back))
    assert found.low < found.spearman < found.high
    assert found.n == 20


def test_cases_without_a_figure_are_left_out_and_counted():
    some = cases([0.1, None, 0.3, 0.4], [0.4, 0.9, 0.2, 0.1], runs=1)
    found = correlation(some, "it")
    assert (found.spearman, found.n) == (pytest.approx(-1.0), 3)


def test_what_does_not_vary_has_no_correlation():
    found = correlations(cases([0.5] * 4, [0.1, 0.2, 0.3, 0.4]))
    assert found["it"].spearman is None
    assert "| it |  | – | – | 4 |" in table(found, cases([0.5] * 4, [0.1, 0.2, 0.3, 0.4]))


def rows(model, kept):
    return [
        ResultRow("target", "bf16", {}),
        ResultRow(model, "bf16", {"nll_forget": Estimate(3.0, 4, 2.9, 3.1)}, 1),
        ResultRow(model, "nf4", {"kept_forgetting": Estimate(kept, 4, 0.5, 0.9)}, 1),
        ResultRow(model, "fp4", {"kept_forgetting": Undefined("nothing was forgotten")}, 1),
    ]


def test_what_came_back_is_read_from_the_run(tmp_path):
    write_results(tmp_path / "run", rows("unlearned", 0.75))
    assert returned(tmp_path / "run") == {"nf4": 0.25}


def test_what_came_back_is_read_from_a_later_evaluation(tmp_path):
    run = tmp_path / "runs/ga"
    write_results(tmp_path / "evaluated/ga", [*rows(f"{run}/model", 0.5), *rows("/elsewhere/npo/model", 0.1)])
    assert returned(run, tmp_path / "evaluated") == {"nf4": 0.5}


def test_points_lie_between_the_models():
    import torch

    ours, target = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    middle = (ours.weight + target.weight).detach() / 2
    predictors.place_between(ours, target, 0.5)
    assert torch.allclose(ours.weight, middle)
