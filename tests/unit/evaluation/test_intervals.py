from __future__ import annotations

import numpy as np
import pytest

from quail_lightning.evaluation import intervals
from quail_lightning.evaluation.intervals import bootstrap_mean, bootstrap_ratio, resample_weights
from quail_lightning.run.results import Estimate, Undefined


def test_the_interval_of_a_mean_agrees_with_plain_resampling() -> None:
    generator = np.random.default_rng(1)
    scores = generator.beta(0.5, 0.5, 100) * 100
    replicates = [generator.choice(scores, 100).mean() for _ in range(10_000)]
    measure = bootstrap_mean(scores)
    assert isinstance(measure, Estimate)
    assert measure.value == pytest.approx(scores.mean())
    assert (measure.low, measure.high) == pytest.approx(np.percentile(replicates, [2.5, 97.5]), abs=0.6)
    assert measure.scores == tuple(scores.tolist())


def test_of_one_zero_among_ones_the_bounds_are_known() -> None:
    # 20 records, one of them 0: a resample's mean is 1 − B/20 with B ~ Bin(20, 1/20), whose 97.5 % quantile is 3
    measure = bootstrap_mean([0.0] + [1.0] * 19)
    assert isinstance(measure, Estimate)
    assert (measure.low, measure.high) == pytest.approx((0.85, 1.0))


def test_intervals_cover_the_true_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        measure = bootstrap_mean(generator.normal(3, 2, 50), resamples=1_000)
        assert isinstance(measure, Estimate)
        hits += measure.low <= 3 <= measure.high
    assert 0.90 <= hits / 300 <= 0.98


def test_the_same_scores_give_the_same_interval_and_no_global_state_is_used() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    assert bootstrap_mean([1.0, 2.0, 5.0]) == bootstrap_mean([1.0, 2.0, 5.0])
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_nothing_or_something_broken_is_undefined_and_not_zero() -> None:
    assert bootstrap_mean([]) == Undefined("no records")
    assert bootstrap_mean([1.0, float("inf")]) == Undefined("1 of 2 records have no finite value")
    assert isinstance(bootstrap_ratio([], []), Undefined)
    assert isinstance(bootstrap_ratio([1.0, 2.0], [1.0, -1.0]), Undefined)


def test_pieces_cover_all_resamples_and_rows_sum_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "CELLS", 70)
    pieces = list(resample_weights([3, 4], resamples=25, seed=9))
    assert [len(first) for first, _ in pieces] == [10, 10, 5]
    for first, second in pieces:
        assert (first.shape[1], second.shape[1]) == (3, 4)
        assert first.sum(axis=1) == pytest.approx(1)
        assert second.sum(axis=1) == pytest.approx(1)


def test_a_ratio_is_resampled_in_pairs() -> None:
    below = np.random.default_rng(4).exponential(1, 60) + 0.1
    exact = bootstrap_ratio(0.3 * below, below)
    assert isinstance(exact, Estimate)
    # proportional series have one ratio in every resample; unpaired they would not
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.3, 0.3, 0.3))
    assert exact.scores == ()
