from __future__ import annotations

import pytest
import torch

from quail_lightning.evaluation.rouge import RougeLF1, rougeL_f1
from quail_lightning.run.results import Estimate, Undefined


@pytest.mark.parametrize(
    ("truth", "response", "expected"),
    [
        # LCS "the cat the mat" = 4 of 6 and 5 words: P 4/5, R 4/6, F1 = 8/11
        ("the cat sat on the mat", "the cat near the mat", 8 / 11),
        # order counts: LCS of (a b c) and (c b a) is 1
        ("a b c", "c b a", 1 / 3),
        ("It's HERE.", "it s here", 1.0),
        # no stemmer: runs is not run
        ("he runs", "he run", 0.5),
        ("words", "", 0.0),
        # from a published per-example log of MUSE (BOOKS)
        ("the Hogwarts Board of Governors", "The Board of Governors", 0.888888888888889),
        ("5 June 1980", "5 June", 0.8),
        (
            "5 June 1980",
            "5 June 1980\nSpell name: Draconifors\nSpell type: Transfiguration\nEtymology: From the",
            0.4,
        ),
    ],
)
def test_rouge_l_f1_by_hand(truth: str, response: str, expected: float) -> None:
    assert rougeL_f1(truth, response) == pytest.approx(expected, abs=1e-12)


TRUTHS = ["a b c d", "a b", "x", "p q r s"]
RESPONSES = ["a b", "a b", "y", "p q r s t t t t"]
SCORES = [200 / 3, 100.0, 0.0, 200 / 3]


def test_metric_is_the_mean_times_100_with_scores_in_record_order() -> None:
    metric = RougeLF1()
    metric.update(RESPONSES[2:], TRUTHS[2:], [2, 3])
    metric.update(RESPONSES[:2], TRUTHS[:2], [0, 1])
    measure = metric.estimate()
    assert isinstance(measure, Estimate)
    assert measure.scores == pytest.approx(SCORES)
    assert (measure.value, measure.n) == (pytest.approx(sum(SCORES) / 4), 4)
    assert measure.low <= measure.value <= measure.high
    assert metric.compute().item() == pytest.approx(measure.value)


def test_two_processes_merged_equal_one() -> None:
    whole, first, second = RougeLF1(), RougeLF1(), RougeLF1()
    whole.update(RESPONSES, TRUTHS, range(4))
    first.update(RESPONSES[0::2], TRUTHS[0::2], [0, 2])
    # a distributed sampler repeats record 0 to even out the lengths
    second.update([*RESPONSES[1::2], RESPONSES[0]], [*TRUTHS[1::2], TRUTHS[0]], [1, 3, 0])
    first.merge_state(second)
    merged, alone = first.estimate(), whole.estimate()
    assert merged == alone
    assert isinstance(merged, Estimate)
    assert isinstance(alone, Estimate)
    assert merged.scores == alone.scores


def test_without_records_there_is_no_value() -> None:
    metric = RougeLF1()
    assert isinstance(metric.estimate(), Undefined)
    metric.update([], [], [])
    assert torch.isnan(metric.compute())
