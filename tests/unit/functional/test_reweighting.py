"""WGA and SatImp against p^β1 · (1 − p)^β2 · log p written out in float64, the weight held still."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.reweighting import reweighted_ascent

PROBABILITIES = [0.999, 5 / 6, 0.5, 0.01, 1e-12]


@pytest.mark.parametrize(
    ("saturation", "importance"), [(1.0, 0.0), (0.0, 0.0), (5.0, 1.0), (5.0, 0.1), (0.5, 2.0)]
)
def test_values_and_gradients_equal_the_formula(saturation, importance):
    live = torch.tensor(PROBABILITIES, dtype=torch.float64).log().requires_grad_()
    values = reweighted_ascent(live, saturation, importance)
    values.sum().backward()
    weights = [p**saturation * (1 - p) ** importance for p in PROBABILITIES]
    expected = [weight * math.log(p) for weight, p in zip(weights, PROBABILITIES, strict=True)]
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-9)
    np.testing.assert_allclose(live.grad, weights, rtol=1e-9)


def test_a_certain_token_counts_for_wga_and_not_for_satimp():
    for importance, expected in ((0.0, 1.0), (1.0, 0.0)):
        live = torch.zeros(1, requires_grad=True)
        reweighted_ascent(live, 5.0, importance).backward()
        assert live.grad.item() == expected


def test_a_forgotten_token_gives_no_gradient():
    live = torch.tensor([-1e4], requires_grad=True)
    for saturation, importance in ((1.0, 0.0), (5.0, 1.0)):
        (gradient,) = torch.autograd.grad(reweighted_ascent(live, saturation, importance), live)
        assert gradient.item() == 0


def test_satimp_weighs_most_where_the_docstring_says():
    live = torch.linspace(0.01, 0.99, 981, dtype=torch.float64).log().requires_grad_()
    reweighted_ascent(live, 5.0, 1.0).sum().backward()
    assert math.isclose(live.grad.max().item(), 0.067, abs_tol=5e-4)
    assert math.isclose(live[live.grad.argmax()].exp().item(), 5 / 6, abs_tol=1e-3)


def test_larger_exponents_let_go_earlier_and_spare_what_is_certain():
    unlikely, certain = (torch.tensor(p).log() for p in (0.1, 0.99))
    for grown in ((1.0, 0.0), (5.0, 0.0), (5.0, 1.0)):
        assert abs(reweighted_ascent(unlikely, *grown)) < abs(unlikely) / 9
    pulls = [abs(reweighted_ascent(certain, 5.0, importance)) for importance in (0.0, 1.0, 2.0)]
    assert pulls == sorted(pulls, reverse=True)
