from __future__ import annotations

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.evaluation.privleak import (
    MembershipAUC,
    auc,
    membership_auc,
    min_k,
    privleak,
    privleak_measure,
    published_auc_retrain,
    shortest_text,
)
from quail_lightning.run.results import Estimate, Undefined


def test_min_k_is_the_negated_mean_of_the_lowest_floor_of_the_tokens() -> None:
    values = torch.tensor([-1.0, -5.0, -0.5, -3.0, -2.0, -0.1, -0.2])  # ⌊0.4·7⌋ = 2: −5 and −3
    assert min_k(values, 0.4) == pytest.approx(4.0)
    assert min_k(values, 1.0) == pytest.approx(11.8 / 7)


def test_a_text_too_short_for_min_k_is_refused() -> None:
    assert shortest_text(0.4) == 3
    with pytest.raises(InputError, match="at least 3 tokens"):
        min_k(torch.tensor([-1.0, -2.0]))


def test_auc_with_ties_by_hand() -> None:
    # pairs of (3, 1) against (1, 2): wins 3>1, 3>2; tie 1=1; loss 1<2 → 2.5 of 4
    assert auc([3, 1], [1, 2]) == 0.625


def test_auc_equals_a_count_over_all_pairs() -> None:
    generator = np.random.default_rng(3)
    positive, negative = generator.integers(0, 6, 17), generator.integers(1, 7, 23)
    count = sum((p > n) + (p == n) / 2 for p in positive.tolist() for n in negative.tolist())
    assert auc(positive, negative) == pytest.approx(count / (17 * 23), abs=1e-14)


MEMORIZED, UNSEEN = [0.1, 0.2, 0.3], [5.0, 6.0, 7.0, 8.0]  # Min-40 % scores, nats


def test_a_memorized_forget_set_has_auc_0_and_privleak_minus_100() -> None:
    measure = membership_auc(forget=MEMORIZED, holdout=UNSEEN)
    assert isinstance(measure, Estimate)
    assert (measure.value, measure.low, measure.high, measure.n) == (0.0, 0.0, 0.0, 7)
    leak = privleak_measure(measure, 0.4772)
    assert isinstance(leak, Estimate)
    assert (leak.value, leak.low, leak.high) == (-100.0, -100.0, -100.0)


def test_the_interval_carries_the_retrained_model_s_own_uncertainty() -> None:
    measure = Estimate(0.6, 200, 0.5, 0.7)
    exact, measured = (privleak_measure(measure, each) for each in (0.5, Estimate(0.5, 200, 0.42, 0.58)))
    assert isinstance(exact, Estimate)
    assert isinstance(measured, Estimate)
    assert (exact.value, exact.low, exact.high) == pytest.approx((20.0, 0.0, 40.0))
    # the ratio of two normal variables with these intervals, by simulation
    generator = np.random.default_rng(0)
    above, below = (generator.normal(mean, half / 1.96, 400_000) for mean, half in ((0.6, 0.1), (0.5, 0.08)))
    expected = np.percentile(100 * (above / below - 1), [2.5, 97.5])
    assert (measured.low, measured.high) == pytest.approx(expected, abs=0.5)
    assert measured.caution == ""


def test_a_privleak_that_means_little_says_so() -> None:
    few = privleak_measure(Estimate(0.6, 49, 0.5, 0.7), 0.5)
    low = privleak_measure(Estimate(0.6, 200, 0.5, 0.7), Estimate(0.15, 200, 0.1, 0.2))
    assert isinstance(few, Estimate)
    assert isinstance(low, Estimate)
    assert "49 texts" in few.caution
    assert "0.15" in low.caution
    unbounded = privleak_measure(Estimate(0.6, 200, 0.5, 0.7), Estimate(0.3, 200, 0.0, 0.7))
    assert isinstance(unbounded, Estimate)
    assert (unbounded.value, unbounded.low, unbounded.high) == pytest.approx((100.0, 100 * (5 / 7 - 1), 6900.0))
    assert "anywhere from 0.00 to 0.70" in unbounded.caution


def test_privleak_is_0_like_retraining_and_positive_beyond_it() -> None:
    assert privleak(0.4772, 0.4772) == 0
    # the published AUC of a run on BOOKS against BOOKS' constant: (0.4374 − 0.5393) / 0.5393
    assert privleak(0.4374, 0.5393) == pytest.approx(-18.8949, abs=1e-4)
    assert privleak(1.0, 0.5) == 100


@pytest.mark.parametrize("retrained", [0.0, -0.2, 1.2])
def test_an_impossible_retrained_auc_is_refused(retrained: float) -> None:
    with pytest.raises(InputError, match="AUC_retrain"):
        privleak(0.5, retrained)


def test_auc_interval_agrees_with_resampling_each_side_by_itself() -> None:
    generator = np.random.default_rng(0)
    forget, holdout = generator.normal(0, 1, 40), generator.normal(0.5, 1, 60)
    measure = membership_auc(forget, holdout)
    assert isinstance(measure, Estimate)
    replicates = []
    for _ in range(3000):
        f, h = generator.choice(forget, 40), generator.choice(holdout, 60)
        replicates.append((-h[:, None] > -f[None]).mean() + (h[:, None] == f[None]).mean() / 2)
    assert (measure.low, measure.high) == pytest.approx(np.percentile(replicates, [2.5, 97.5]), abs=0.012)


def test_broken_or_missing_scores_leave_the_auc_undefined() -> None:
    assert membership_auc([], [1.0]) == Undefined("no forget texts")
    assert isinstance(membership_auc([1.0, float("nan")], [1.0]), Undefined)
    assert isinstance(privleak_measure(Undefined("no forget texts"), 0.5), Undefined)
    assert isinstance(privleak_measure(Estimate(0.5, 2, 0.0, 1.0), 0.0), Undefined)


def test_two_processes_merged_equal_one() -> None:
    whole, first, second = MembershipAUC(), MembershipAUC(), MembershipAUC()
    forget, holdout = [1.0, 4.0, 2.5], [3.0, 2.0, 4.0, 2.5]
    whole.update("forget", forget, range(3))
    whole.update("holdout", holdout, range(4))
    first.update("forget", forget[:2], [0, 1])
    first.update("holdout", holdout[2:], [2, 3])
    second.update("holdout", [*holdout[:2], holdout[3]], [0, 1, 3])
    second.update("forget", forget[2:], [2])
    first.merge_state(second)
    assert first.estimate() == whole.estimate()
    # −holdout > −forget: 3: 1 (4); 2: 2 (4, 2.5); 4: ½; 2.5: 1 (4) + ½ → 5 of 12
    assert first.compute().item() == pytest.approx(5 / 12)


def test_the_published_constants_serve_muse_s_own_targets_only() -> None:
    assert published_auc_retrain("muse-bench/MUSE-News_target") == 0.4772
    assert published_auc_retrain("muse-bench/MUSE-Books_target") == 0.5393
    for foreign in (None, "checkpoints/MUSE-News_target", "someone/MUSE-News_target", "muse-bench/MUSE-News"):
        assert published_auc_retrain(foreign) is None
