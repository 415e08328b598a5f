"""WGA and SatImp over real tokens, written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, SaturationImportance, WeightedAscent


@pytest.mark.parametrize(
    ("term", "beta1", "beta2"),
    [(WeightedAscent(), 1.0, 0.0), (WeightedAscent(2.5), 2.5, 0.0), (SaturationImportance(), 5.0, 1.0)],
)
def test_each_real_token_has_its_own_weight_which_takes_no_gradient(logits, term, beta1, beta2):
    live = torch.from_numpy(logits.live).requires_grad_()
    loss = term.loss(logits.seen(term, live))
    loss.backward()
    total, expected = 0.0, np.zeros_like(logits.live)
    for b, t in logits.real:
        p = np.exp(logits.live[b, t]) / np.exp(logits.live[b, t]).sum()
        label = logits.labels[b, t]
        weight = p[label] ** beta1 * (1 - p[label]) ** beta2
        total += weight * math.log(p[label])
        expected[b, t] = weight * (np.eye(5)[label] - p) / 5
    assert math.isclose(loss.item(), total / 5, rel_tol=1e-12)
    np.testing.assert_allclose(live.grad, expected, rtol=1e-9, atol=1e-15)


def test_without_exponents_it_is_gradient_ascent(logits):
    ascent = GradientAscent().loss(logits.seen(GradientAscent()))
    for term in (WeightedAscent(0.0), SaturationImportance(0.0, 0.0)):
        assert term.loss(logits.seen(term)) == ascent


def test_their_likelihood_is_computed_once_with_that_of_other_terms():
    assert WeightedAscent().needs.tokens == SaturationImportance().needs.tokens == GradientAscent().needs.tokens


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_an_exponent_below_zero_is_refused(value):
    with pytest.raises(InputError, match="WGA's beta"):
        WeightedAscent(value)
    with pytest.raises(InputError, match="SatImp's beta2"):
        SaturationImportance(beta2=value)
