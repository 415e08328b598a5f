"""SimNPO on each window's mean log-likelihood, written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import SimplePreference


@pytest.mark.parametrize(("beta", "margin"), [(4.5, 0.0), (0.7, 0.0), (0.75, 3.0)])
def test_the_length_counts_real_tokens_only(logits, beta, margin):
    term, live = SimplePreference(beta, margin), torch.from_numpy(logits.live).requires_grad_()
    loss = term.loss(logits.seen(term, live))
    loss.backward()
    means = logits.log_likelihoods(logits.live).sum(axis=1) / [3, 2]
    sigmoid = 1 / (1 + np.exp(beta * means + margin))
    assert math.isclose(loss.item(), (-2 / beta * np.log(sigmoid)).mean(), rel_tol=1e-12)
    expected = np.zeros_like(logits.live)
    for b, t in logits.real:
        p = np.exp(logits.live[b, t]) / np.exp(logits.live[b, t]).sum()
        expected[b, t] = (1 - sigmoid[b]) / [3, 2][b] * (np.eye(5)[logits.labels[b, t]] - p)  # 2/2 windows
    np.testing.assert_allclose(live.grad, expected, rtol=1e-9, atol=1e-15)


def test_a_window_without_a_real_token_does_not_count(logits):
    term = SimplePreference()
    logits.ignore(1)
    mean = logits.log_likelihoods(logits.live)[0].sum() / 3
    expected = 2 / 4.5 * math.log1p(math.exp(4.5 * mean))
    assert math.isclose(term.loss(logits.seen(term)).item(), expected, rel_tol=1e-12)


def test_it_asks_nothing_of_the_target():
    assert not SimplePreference().needs.frozen


@pytest.mark.parametrize(
    ("argument", "value"), [("beta", 0.0), ("beta", math.inf), ("margin", -0.1), ("margin", math.nan)]
)
def test_numbers_outside_their_range_are_refused(argument, value):
    with pytest.raises(InputError, match=f"SimNPO's {argument} must be"):
        SimplePreference(**{argument: value})
