from __future__ import annotations

import pytest

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.rescoring import score_log
from quail_lightning.run.results import Estimate

ANSWERS = (
    Response("a b c", "a x"),  # LCS 1, words 1: P 1/2, R 1/3, F 2/5
    Response("a b c", "c b"),  # LCS 1: F 2/5; words 2: P 1, R 2/3, F 4/5
    Response("a b c", ""),  # empty: every score 0, counted all the same
)


def test_every_rouge_mean_by_hand() -> None:
    scores = score_log(BenchmarkLog({"knowmem_forget": ANSWERS}), None)
    assert scores.rouge == {
        "knowmem_f": pytest.approx(
            {"rougeL": 0.8 / 3, "rougeL_recall": 2 / 9, "rouge1": 1.2 / 3, "rouge1_recall": 1 / 3}, abs=1e-12
        )
    }
    measure = scores.measures["knowmem_forget"]
    assert isinstance(measure, Estimate)
    assert (measure.value, measure.n) == (pytest.approx(80 / 3), 3)


def test_what_the_log_lacks_is_absent_and_told() -> None:
    scores = score_log(BenchmarkLog({"knowmem_forget": ANSWERS}), 0.5)
    assert set(scores.measures) == {"knowmem_forget"}
    assert scores.aucs == {}
    assert [note.split(":")[0] for note in scores.notes] == ["verbmem_forget", "knowmem_retain", "privleak"]


def test_m3_from_the_scores_alone() -> None:
    membership = {"forget": ({"Min-40%": 1.0}, {"Min-40%": 2.0}), "holdout": ({"Min-40%": 2.0}, {"Min-40%": 3.0})}
    scores = score_log(BenchmarkLog({}, membership), 0.5)
    leak = scores.measures["privleak"]
    assert isinstance(leak, Estimate)
    assert leak.value == pytest.approx((0.125 - 0.5) / 0.5 * 100)
    assert scores.aucs["forget_holdout_Min-40%"] == 0.125
    assert not any(name.startswith("retain") for name in scores.aucs)


def test_without_a_retrained_auc_or_a_holdout_m3_is_left_out() -> None:
    sides = {"forget": ({"Min-40%": 1.0},), "holdout": ({"Min-40%": 2.0},)}
    assert set(score_log(BenchmarkLog({}, sides), None).measures) == {"membership_auc"}
    del sides["holdout"]
    scores = score_log(BenchmarkLog({}, sides), 0.5)
    assert scores.measures == {}
    assert any("not both there" in note for note in scores.notes)
