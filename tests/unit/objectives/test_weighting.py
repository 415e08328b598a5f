"""The weightings by hand."""

import pytest

from quail_lightning.errors import InputError
from quail_lightning.objectives import term_weights
from quail_lightning.objectives.weighting import Weights, step_weights


def test_additive_weights_are_one_alpha_gamma():
    assert term_weights("additive", alpha=5.0, gamma=8.0) == (1.0, 5.0, 8.0)


def test_convex_weights_share_alpha_between_forget_and_retain():
    assert term_weights("convex", alpha=0.75, gamma=0.5) == (0.75, 0.25, 0.5)


@pytest.mark.parametrize("alpha", [5, -0.1, float("nan")])
def test_alpha_outside_0_to_1_under_convex_is_refused_with_value_and_remedy(alpha):
    with pytest.raises(InputError, match=rf"\[0, 1\].*got {alpha}.*additive"):
        term_weights("convex", alpha=alpha, gamma=0.0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["alpha", "gamma"])
def test_weights_that_are_negative_or_not_finite_are_refused(name, value):
    with pytest.raises(InputError, match="finite and not negative"):
        term_weights("additive", **{"alpha": 1.0, "gamma": 1.0, name: value})


@pytest.mark.parametrize(
    ("weights", "side", "losses", "gradient"),
    [
        ((1, 3, 8), "forget", (1, 3, 8), 0.5),
        ((1, 3, 8), "retain", (1 / 3, 1, 8 / 3), 1.5),
        ((0.25, 0.75, 2), "forget", (1, 3, 8), 0.5),
        ((1, 1, 8), "forget", (1, 1, 8), 1),
        ((1, 0, 8), "forget", (1, 0, 8), 2),
        ((1, 0, 8), "retain", (1, 0, 8), 0),
        ((0, 1, 3), "forget", (0, 1 / 3, 1), 1.5),
    ],
)
def test_a_set_s_own_weight_is_divided_out_and_multiplied_in_after_clipping(weights, side, losses, gradient):
    found = step_weights(Weights(*weights), side)
    assert found.losses == pytest.approx(losses)
    assert found.gradient == pytest.approx(gradient)


def test_nothing_weighs_nothing():
    assert step_weights(Weights(0, 0, 0), "forget").gradient == 1
