"""The number by which an epoch is chosen, by hand."""

import math

import pytest

from quail_lightning.evaluation.selection import Likelihoods, delivered, forgetting_gap, kept_share, shortfall

TARGET = {"bf16": Likelihoods(0.5, 1.0), "nf4": Likelihoods(0.6, 1.5)}


@pytest.mark.parametrize(
    ("bf16", "nf4", "expected"),
    [
        ((4.0, 1.0), (4.0, 1.5), 0.0),
        ((9.0, 1.0), (9.0, 1.5), 0.0),  # beyond the goal is no better
        ((4.0, 0.2), (4.0, 0.2), 0.0),  # nor is a retain set that became likelier
        ((3.5, 1.25), (4.0, 1.5), 0.75),
        ((3.5, 1.25), (2.0, 1.75), 2.25),  # quantization rolled the forgetting back: the worst precision counts
    ],
)
def test_shortfall_is_missing_forgetting_plus_lost_utility_at_the_worst_precision(bf16, nf4, expected):
    found = {"bf16": Likelihoods(*bf16), "nf4": Likelihoods(*nf4)}
    assert shortfall(found, TARGET, goal=4.0) == pytest.approx(expected)


def test_gap_and_kept_share_are_its_two_parts_each_at_its_own_worst_precision():
    found = {"bf16": Likelihoods(3.5, 1.25), "nf4": Likelihoods(2.0, 1.75)}
    assert forgetting_gap(found, goal=4.0) == pytest.approx(2.0)
    assert kept_share(found, TARGET) == pytest.approx(math.exp(-0.25))
    likelier = {"bf16": Likelihoods(9.0, 0.2), "nf4": Likelihoods(4.0, 1.5)}
    assert (forgetting_gap(likelier, goal=4.0), kept_share(likelier, TARGET)) == (0, 1), "no more than all"


def of_windows(*nlls):
    return Likelihoods(sum(nlls) / len(nlls), 1.0, nlls)


def test_delivered_forgetting_is_the_quantized_rise_over_that_at_16_bits():
    target = {
        "bf16": of_windows(1.0, 2.0, 1.5),
        "nf4": of_windows(1.2, 2.2, 1.7),
        "fp4": of_windows(1.0, 2.0, 1.5),
    }
    unlearned = {
        "bf16": of_windows(3.0, 4.0, 3.5),
        "nf4": of_windows(2.2, 3.2, 2.7),
        "fp4": of_windows(1.0, 2.0, 1.5),
    }
    found = delivered(unlearned, target, "bf16")
    assert found == {"nf4": pytest.approx(0.5), "fp4": pytest.approx(0.0)}
    assert delivered(target, target, "bf16") == {"nf4": None, "fp4": None}, "nothing was forgotten"
    assert delivered({"nf4": target["nf4"]}, target, "bf16") == {}, "nothing to compare with"
