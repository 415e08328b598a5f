"""GA, GDR and the hinge term against float64 arithmetic; the weightings by hand."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge, Predictions, term_weights


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    logits, reference = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    labels = rng.integers(0, 5, size=(2, 3))
    labels[1, 2] = -100  # padded
    return logits, labels, reference


def mean_log_likelihood(logits, labels):
    values = []
    for b in range(2):
        for t in range(3):
            if labels[b, t] != -100:
                normalizer = math.log(sum(math.exp(value) for value in logits[b, t]))
                values.append(logits[b, t, labels[b, t]] - normalizer)
    return sum(values) / len(values)


def predictions(case):
    logits, labels, reference = case
    return Predictions(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(reference))


def test_gradient_ascent_minimizes_the_mean_log_likelihood_of_real_tokens(case):
    found = GradientAscent().loss(predictions(case)).item()
    assert math.isclose(found, mean_log_likelihood(case[0], case[1]), rel_tol=1e-12)


def test_gradient_descent_is_the_mean_negative_log_likelihood(case):
    found = GradientDescent().loss(predictions(case)).item()
    assert math.isclose(found, -mean_log_likelihood(case[0], case[1]), rel_tol=1e-12)


def test_a_step_against_the_ascent_gradient_makes_the_labels_less_likely(case):
    logits = torch.from_numpy(case[0]).requires_grad_(True)
    labels = torch.from_numpy(case[1])
    before = GradientAscent().loss(Predictions(logits, labels))
    before.backward()
    after = GradientAscent().loss(Predictions(logits.detach() - 0.1 * logits.grad, labels))
    assert after < before


def test_hinge_term_averages_equation_14_over_real_tokens(case):
    logits, labels, reference = case
    expected = [
        np.maximum(0, 1.5 / 2 - np.abs(logits[b, t] - reference[b, t])).mean()
        for b in range(2)
        for t in range(3)
        if labels[b, t] != -100
    ]
    found = LogitHinge(step=1.5).loss(predictions(case)).item()
    assert math.isclose(found, sum(expected) / len(expected), rel_tol=1e-12)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_hinge_refuses_a_margin_that_is_not_positive(step):
    with pytest.raises(InputError, match="must be positive"):
        LogitHinge(step=step)


def test_additive_weights_are_one_alpha_gamma():
    assert term_weights("additive", alpha=5.0, gamma=8.0) == (1.0, 5.0, 8.0)


def test_convex_weights_share_alpha_between_forget_and_retain():
    assert term_weights("convex", alpha=0.75, gamma=0.5) == (0.75, 0.25, 0.5)


def test_alpha_above_one_under_convex_is_refused_with_value_and_remedy():
    with pytest.raises(InputError, match=r"\[0, 1\].*got 5.*additive"):
        term_weights("convex", alpha=5, gamma=0.0)


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_negative_or_not_finite_are_refused(gamma):
    with pytest.raises(InputError, match="finite and not negative"):
        term_weights("additive", alpha=1.0, gamma=gamma)
