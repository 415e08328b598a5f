from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from quail_lightning.errors import InputError
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics import labels
from quail_lightning.evaluation.survival import (
    delivered_forgetting,
    kept_forgetting,
    recovery,
    recovery_capped,
    survival_measures,
)
from quail_lightning.run.results import Estimate, Measure, Undefined

NOISE = np.random.default_rng(0).normal(0, 1, 50)
TARGET = 60 + 5 * NOISE
FORGOTTEN = 20 + 3 * np.roll(NOISE, 7)
LOW = 1.0 + 0.1 * NOISE  # NLL of a memorized window
HIGH = 3.0 + 0.1 * np.roll(NOISE, 7)


def m(scores: ArrayLike) -> Measure:
    return bootstrap_mean(scores)


def value(measure: Measure) -> float:
    assert isinstance(measure, Estimate), measure
    assert measure.low <= measure.value <= measure.high
    return measure.value


def test_recovery_is_1_on_a_full_rollback_and_0_where_the_forgetting_survives() -> None:
    assert value(recovery(m(TARGET), m(FORGOTTEN), m(TARGET), m(TARGET))) == pytest.approx(1)
    assert value(recovery(m(FORGOTTEN), m(FORGOTTEN), m(TARGET), m(TARGET))) == 0


def test_recovery_by_hand() -> None:
    # means: M_uq 30, M_u16 10, M_tq 50 → 20/40
    assert value(recovery(m([20, 40]), m([10, 10]), m([60, 40]), m([60, 70]))) == pytest.approx(0.5)


def test_recovery_is_undefined_where_nothing_was_forgotten_at_16_bits() -> None:
    same = recovery(m(TARGET), m(TARGET + NOISE - NOISE.mean()), m(TARGET + 30), m(TARGET))
    assert isinstance(same, Undefined)
    assert "16 bits" in same.reason
    assert isinstance(recovery(m(TARGET), m(FORGOTTEN), m(FORGOTTEN), m(TARGET)), Undefined)
    assert isinstance(recovery(m(TARGET), m(FORGOTTEN), m(FORGOTTEN)), Undefined)


def test_what_an_ignorant_model_scores_too_has_not_come_back() -> None:
    # the published GA_GDR: 0.0 at 16 bits, 25.0 at 4, target 34.2 there, retrained model 20.8
    unlearned, quantized, target, ignorant = (m(mean + NOISE - NOISE.mean()) for mean in (0.0, 25.0, 34.2, 20.8))
    assert value(recovery(quantized, unlearned, target, target)) == pytest.approx(0.731, abs=1e-3)
    beyond = recovery_capped(quantized, unlearned, target, target, ignorant, ignorant)
    assert value(beyond) == pytest.approx((25 - 20.8) / (34.2 - 20.8))
    nothing = recovery_capped(quantized, unlearned, target, target, target, target)
    assert isinstance(nothing, Undefined)
    assert "than the retrained model" in nothing.reason


def test_kept_does_not_fall_when_only_the_target_degrades() -> None:
    jitter = 0.01 * (NOISE - NOISE.mean())
    target, unlearned = m(0.5 + jitter), m(3.5 + jitter)
    assert value(kept_forgetting(unlearned, unlearned, target)) == 1
    degraded = m(1.5 + jitter)
    assert value(delivered_forgetting(unlearned, degraded, unlearned, target)) == pytest.approx(2 / 3)


def test_kept_by_hand_and_capped_at_the_equally_precise_retrained_model() -> None:
    jitter = 0.01 * (NOISE - NOISE.mean())
    target, unlearned, quantized = (m(mean + jitter) for mean in (1.0, 9.0, 5.0))
    assert value(kept_forgetting(quantized, unlearned, target)) == pytest.approx(0.5)  # 1 − 4/8
    retrained, retrained_q = m(4.0 + jitter), m(3.5 + jitter)
    # capped: 4.0 → 3.5 of a rise of 3
    assert value(kept_forgetting(quantized, unlearned, target, retrained_q, retrained)) == pytest.approx(5 / 6)
    assert value(kept_forgetting(m(12 + jitter), unlearned, target)) == 1  # a further rise is no return


def test_kept_is_undefined_where_nothing_was_forgotten_or_the_text_was_learned() -> None:
    for unlearned in (m(LOW + 0.1 * (NOISE - NOISE.mean())), m(LOW - 0.2)):
        measure = kept_forgetting(m(HIGH), unlearned, m(LOW))
        assert isinstance(measure, Undefined)
        assert "nothing was forgotten" in measure.reason


def test_delivered_is_0_on_a_full_rollback_and_1_where_the_forgetting_survives() -> None:
    quantized_target = LOW + 0.2
    assert value(delivered_forgetting(m(quantized_target), m(quantized_target), m(HIGH), m(LOW))) == 0
    survived = delivered_forgetting(m(HIGH + 0.2), m(quantized_target), m(HIGH), m(LOW))
    assert value(survived) == pytest.approx(1)


def test_delivered_by_hand() -> None:
    # (2.0 − 1.5) / (3.0 − 1.0)
    measure = delivered_forgetting(m([1.8, 2.2]), m([1.4, 1.6]), m([2.0, 4.0]), m([0.9, 1.1]))
    assert value(measure) == pytest.approx(0.25)


def test_delivered_is_undefined_where_the_rise_is_within_its_interval_of_zero() -> None:
    rise = 0.1 * (NOISE - NOISE.mean())
    measure = delivered_forgetting(m(HIGH), m(LOW), m(LOW + rise), m(LOW))
    assert isinstance(measure, Undefined)
    assert "within its interval, or rounding, of zero" in measure.reason


def test_a_fall_of_the_retain_nll_has_a_ratio_too() -> None:
    assert value(delivered_forgetting(m([2.5, 2.5]), m([3.0, 3.0]), m([2.0, 2.0]), m([3.0, 3.0]))) == 0.5


def test_one_exploded_window_does_not_carry_the_capped_ratio() -> None:
    # windows 1–3 rolled back, window 4 blown up at both precisions; the retrained model's NLL is 2
    target, unlearned, quantized = [1.0] * 4, [3.0, 3.0, 3.0, 100.0], [1.0, 1.0, 1.0, 100.0]
    retrained = m([2.0] * 4)
    bare = delivered_forgetting(m(quantized), m(target), m(unlearned), m(target))
    assert value(bare) == pytest.approx(99 / 105)
    capped = delivered_forgetting(m(quantized), m(target), m(unlearned), m(target), retrained)
    assert value(capped) == pytest.approx(1 / 4)


def test_the_cap_acts_window_by_window_on_all_four() -> None:
    # window 2 is easier for the retrained model than for the target: it counts 0 on both sides
    measure = delivered_forgetting(m([2.0, 1.0]), m([1.0, 1.0]), m([3.0, 3.0]), m([1.0, 1.0]), m([5.0, 0.5]))
    assert isinstance(measure, Undefined)  # rises (2, 0): two windows cannot exclude 0
    repeated = [m(np.repeat(pair, 20)) for pair in ([2.0, 1.0], [1.0, 1.0], [3.0, 3.0], [1.0, 1.0], [5.0, 0.5])]
    assert value(delivered_forgetting(*repeated)) == pytest.approx(1 / 2)


def test_an_undefined_measure_is_handed_on_and_unpaired_ones_are_refused() -> None:
    gone = Undefined("no records")
    assert delivered_forgetting(gone, m(LOW), m(HIGH), m(LOW)) == gone
    assert recovery(m(LOW), m(LOW), gone) == gone
    with pytest.raises(InputError, match="same records"):
        recovery(m([1.0, 2.0]), m([1.0, 2.0]), m([1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="same records"):
        recovery(Estimate(1.0, 2, 0.0, 2.0), Estimate(1.0, 2, 0.0, 2.0), Estimate(1.0, 2, 0.0, 2.0))


def test_all_ratios_that_the_metrics_allow_are_named() -> None:
    target = {"verbmem_forget": m(TARGET), "nll_forget": m(LOW), "nll_retain": m(LOW), "membership_auc": m([0.1])}
    unlearned = {
        "verbmem_forget": m(FORGOTTEN),
        "nll_forget": m(HIGH),
        "nll_retain": m(LOW),
        "knowmem_forget": m([1]),
    }
    ratios = survival_measures(target, unlearned, target, target)  # quantized, it is the target again
    kept = {"kept_forgetting", "delivered_forgetting", "delivered_retain"}
    assert set(ratios) == {"recovery_verbmem_forget", *kept}
    assert value(ratios["recovery_verbmem_forget"]) == pytest.approx(1)
    assert value(ratios["delivered_forgetting"]) == 0
    assert isinstance(ratios["delivered_retain"], Undefined)
    assert value(ratios["kept_forgetting"]) == 0
    ignorant = {"nll_forget": m(LOW + 0.5), "verbmem_forget": m(FORGOTTEN + 1)}
    capped = survival_measures(unlearned, unlearned, target, target, ignorant, ignorant)
    assert value(capped["delivered_forgetting_capped"]) == pytest.approx(1)
    assert value(capped["kept_forgetting"]) == 1
    assert value(capped["recovery_verbmem_forget_capped"]) == 0
    assert set(ratios) < set(capped) <= set(labels())


def test_after_an_attack_nothing_has_come_back_that_the_retrained_model_learned_as_well() -> None:
    jitter = NOISE - NOISE.mean()
    forgotten, relearned, target = (m(mean + jitter) for mean in (20.0, 40.0, 70.0))
    retrained, taught = m(20 + jitter), m(40 + jitter)
    given = (relearned, forgotten, target, target, taught, retrained)
    assert value(recovery_capped(*given)) == pytest.approx(20 / 50)  # as after quantization
    assert value(recovery_capped(*given, attacked=True)) == 0
    given = (m(50 + jitter), forgotten, target, target, taught, retrained)
    assert value(recovery_capped(*given, attacked=True)) == pytest.approx(10 / 30)  # 40 → 50 of the way to 70
    unharmed = (m(30 + jitter), forgotten, target, target, m(10 + jitter), retrained)
    assert recovery_capped(*unharmed, attacked=True) == recovery_capped(*unharmed)


def test_kept_after_an_attack_is_beyond_what_the_retrained_model_learned() -> None:
    jitter = 0.01 * (NOISE - NOISE.mean())
    target, forgotten, retrained, taught = (m(mean + jitter) for mean in (1.0, 4.0, 4.0, 2.0))
    same = (m(2 + jitter), forgotten, target, taught, retrained)
    assert value(kept_forgetting(*same)) == pytest.approx(1 / 3)
    assert value(kept_forgetting(*same, attacked=True)) == 1
    faster = (m(1.5 + jitter), forgotten, target, taught, retrained)
    assert value(kept_forgetting(*faster, attacked=True)) == pytest.approx(0.5)  # 2 → 1.5 of 2 → 1
    nothing = kept_forgetting(m(0.5 + jitter), forgotten, target, m(0.9 + jitter), retrained, attacked=True)
    assert isinstance(nothing, Undefined)
    assert "the retrained model knows as much" in nothing.reason


def test_a_rise_within_rounding_of_zero_delivers_nothing_that_could_be_told() -> None:
    before, after, clear = m([1.0, 1.0, 1.0]), m([1 + 1e-7, 1 + 2e-4, 1 + 3e-4]), m([1.1, 1.2, 1.3])
    assert isinstance(delivered_forgetting(after, before, after, before), Undefined)
    assert isinstance(kept_forgetting(after, after, before), Undefined)
    assert value(delivered_forgetting(clear, before, clear, before)) == pytest.approx(1)
