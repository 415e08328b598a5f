"""TOFU's figures by hand and against plain float64 arithmetic."""

from __future__ import annotations

import math
from statistics import fmean, harmonic_mean

import numpy as np
import pytest

from quail_lightning.evaluation.answer_losses import (
    LOG_RATIO,
    AnswerLosses,
    log_ratios,
    probabilities,
    set_measures,
    truth_ratio_scores,
)
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.tofu import (
    KEPT,
    QUALITY,
    UTILITY,
    derived_measures,
    forget_quality,
    model_utility,
    too_few,
    utility_parts,
)
from quail_lightning.run.results import Estimate, Measure, Undefined

HALF, QUARTER, EIGHTH = math.log(2), math.log(4), math.log(8)
ROWS = (
    AnswerLosses(HALF, QUARTER, (EIGHTH, EIGHTH)),  # R = exp(log 8 − log 4) = 2
    AnswerLosses(0.0, EIGHTH, (HALF, math.log(32))),  # mean loss log 8: R = 1
    AnswerLosses(QUARTER, EIGHTH, (0.0, QUARTER)),  # mean loss log 2: R = 1/4
)


def test_probabilities_by_hand() -> None:
    assert probabilities(ROWS, False) == pytest.approx([1 / 2, 1, 1 / 4], abs=1e-15)
    expected = [(1 / 2) / (1 / 2 + 2 / 8), 1 / (1 + 1 / 2 + 1 / 32), (1 / 4) / (1 / 4 + 1 + 1 / 4)]
    assert probabilities(ROWS, True) == pytest.approx(expected, abs=1e-15)


def test_the_mean_of_wrong_answers_is_of_losses_and_not_of_probabilities() -> None:
    assert np.exp(log_ratios(ROWS)) == pytest.approx([2, 1, 1 / 4], abs=1e-12)


def test_truth_ratios_by_hand() -> None:
    assert truth_ratio_scores(ROWS, True) == pytest.approx([1 / 2, 1, 1 / 4], abs=1e-12)
    assert truth_ratio_scores(ROWS, False) == pytest.approx([1 / 2, 0, 0], abs=1e-12)


def test_extreme_losses_end_at_the_bounds() -> None:
    far = (AnswerLosses(0.0, 0.0, (2000.0,)), AnswerLosses(0.0, 2000.0, (0.0,)))
    assert truth_ratio_scores(far, True).tolist() == [0, 0]
    assert truth_ratio_scores(far, False).tolist() == [1, 0]


def test_only_real_authors_and_world_facts_have_options() -> None:
    for of, expected in (("retain", 7 / 12), ("world_facts", fmean([2 / 3, 32 / 49, 1 / 6]))):
        measure = set_measures(of, ROWS)[f"answer_probability_{of}"]
        assert isinstance(measure, Estimate)
        assert measure.value == pytest.approx(expected, abs=1e-12)
    assert LOG_RATIO in set_measures("forget", ROWS)
    assert LOG_RATIO not in set_measures("retain", ROWS)


def nine(values: list[list[float]]) -> dict[str, Measure]:
    return {name: bootstrap_mean(each) for name, each in zip(utility_parts(), values, strict=True)}


def test_measures_of_different_questions_have_no_utility() -> None:
    measures = nine([[0.5, 0.7]] * 9) | {"truth_ratio_world_facts": bootstrap_mean([0.5])}
    assert model_utility(measures) == Undefined("the measures of a set are of different questions")


def test_model_utility_is_the_harmonic_mean_of_the_nine_means() -> None:
    values = np.random.default_rng(1).uniform(0.1, 1, (9, 20)).tolist()
    measure = model_utility(nine(values))
    assert isinstance(measure, Estimate)
    assert measure.value == pytest.approx(harmonic_mean([fmean(each) for each in values]), abs=1e-12)
    assert measure.low < measure.value < measure.high
    assert measure.n == 20 * len(KEPT)


def test_one_figure_of_zero_makes_the_utility_zero() -> None:
    measure = model_utility(nine([[0.0, 0.0], *([[0.5, 0.7]] * 8)]))
    assert isinstance(measure, Estimate)
    assert measure.value == 0


def test_a_missing_figure_leaves_the_utility_out_and_an_undefined_one_undefined() -> None:
    measures = nine([[0.5, 0.7]] * 9)
    gone = utility_parts()[4]
    assert model_utility({name: each for name, each in measures.items() if name != gone}) is None
    undefined = model_utility(measures | {gone: Undefined("no records")})
    assert isinstance(undefined, Undefined)
    assert gone in undefined.reason


def ratios(values: list[float]) -> Measure:
    return bootstrap_mean([math.log(each) for each in values])


def test_forget_quality_of_separate_samples_is_the_least_possible() -> None:
    """Four below four: D = 1, two of the C(8, 4) = 70 orders are as extreme."""
    measure = forget_quality(ratios([0.1, 0.2, 0.3, 0.4]), ratios([1.1, 1.2, 1.3, 1.4]))
    assert isinstance(measure, Estimate)
    assert measure.value == pytest.approx(2 / 70, abs=1e-12)


def test_forget_quality_of_one_model_with_itself_is_one() -> None:
    same = [0.4, 0.9, 1.3, 2.0, 0.2]
    measure = forget_quality(ratios(same), ratios(same))
    assert isinstance(measure, Estimate)
    assert measure.value == 1
    assert measure.low <= 1 == measure.high


def exact_p(first: list[float], second: list[float]) -> float:
    """Share of all arrangements whose distance is at least that found; counted one by one."""
    from itertools import combinations

    def distance(one: list[float], other: list[float]) -> float:
        cuts = [*one, *other]
        shares = ((sum(v <= c for v in one) / len(one), sum(v <= c for v in other) / len(other)) for c in cuts)
        return max(abs(a - b) for a, b in shares)

    found, pooled = distance(first, second), [*first, *second]
    every = [
        distance([pooled[i] for i in chosen], [v for i, v in enumerate(pooled) if i not in chosen])
        for chosen in combinations(range(len(pooled)), len(first))
    ]
    return sum(each >= found - 1e-12 for each in every) / len(every)


@pytest.mark.parametrize("sizes", [(5, 5), (4, 6)])
def test_forget_quality_against_all_arrangements(sizes: tuple[int, int]) -> None:
    draw = np.random.default_rng(3)
    first, second = draw.uniform(0.2, 1.5, sizes[0]).tolist(), draw.uniform(0.8, 3, sizes[1]).tolist()
    measure = forget_quality(ratios(first), ratios(second))
    assert isinstance(measure, Estimate)
    assert measure.value == pytest.approx(exact_p(first, second), abs=1e-9)
    assert measure.low <= measure.value <= measure.high


def test_too_few_records_leave_forget_quality_undefined() -> None:
    assert "3 and 3 records" in too_few(3, 3)
    assert too_few(0, 300)
    assert not too_few(4, 4)
    measure = forget_quality(ratios([1, 2, 3]), ratios([4, 5, 6]))
    assert isinstance(measure, Undefined)
    assert "too few" in measure.reason


def test_what_is_derived_needs_its_parts() -> None:
    assert derived_measures({}, {}) == {}
    forget = {LOG_RATIO: ratios([1, 2, 3, 4])}
    assert derived_measures(forget, None) == {}
    assert derived_measures(forget, forget).keys() == {QUALITY}
    assert derived_measures(nine([[0.5, 0.7]] * 9), None).keys() == {UTILITY}
