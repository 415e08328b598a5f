"""The hinge term: Eq. 14 averaged over real tokens, and what its options refuse."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import LogitHinge, MeasuredStep


def test_the_hinge_term_averages_equation_14_over_real_tokens(logits):
    distances = np.abs(logits.live - logits.target)
    expected = [np.maximum(0, 1.5 / 2 - distances[place]).mean() for place in logits.real]
    term = LogitHinge(step=1.5)
    assert math.isclose(term.loss(logits.seen(term)).item(), sum(expected) / 5, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("options", "by_entry"),
    [
        ({"form": "smooth", "softness": 0.3}, lambda slack: 0.3 * np.log1p(np.exp(slack / 0.3))),
        ({"form": "smooth"}, lambda slack: 0.1 * np.log1p(np.exp(slack / 0.1))),
        ({"form": "quadratic"}, lambda slack: np.maximum(0, slack) ** 2),
        ({"form": "exponential", "rate": 2.0}, lambda slack: np.exp(2 * slack)),
        ({"form": "exponential"}, np.exp),
    ],
    ids=["smooth at 0.3", "smooth", "quadratic", "exponential at 2", "exponential"],
)
def test_each_option_reaches_its_formula(logits, options, by_entry):
    slack = 1.5 / 2 - np.abs(logits.live - logits.target)
    expected = sum(by_entry(slack[place]).mean() for place in logits.real) / 5
    term = LogitHinge(step=1.5, **options)
    assert math.isclose(term.loss(logits.seen(term)).item(), expected, rel_tol=1e-9)


def test_centring_takes_each_token_s_mean_difference_off(logits):
    difference = logits.live - logits.target
    distances = np.abs(difference - difference.mean(axis=-1, keepdims=True))
    expected = sum(np.maximum(0, 0.75 - distances[place]).mean() for place in logits.real) / 5
    term = LogitHinge(step=1.5, centred=True)
    assert math.isclose(term.loss(logits.seen(term)).item(), expected, rel_tol=1e-12)


@pytest.mark.parametrize("form", ["hinge", "smooth", "quadratic", "exponential"])
def test_rounding_noise_moves_nothing_unless_equation_14_is_taken_to_the_letter(logits, form):
    noise = 1e-6 * np.random.default_rng(1).normal(size=logits.target.shape)

    def gradient(term):
        live = torch.from_numpy(logits.target + noise).requires_grad_()
        term.loss(logits.seen(term, live)).backward()
        return live.grad

    assert torch.count_nonzero(gradient(LogitHinge(form=form))) == 0
    # five real tokens, five words
    assert torch.count_nonzero(gradient(LogitHinge(form=form, dead_zone=0.0))) == 25


def test_the_hinge_reads_the_target_s_logits():
    assert LogitHinge().needs.frozen == {"logits"}


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_not_positive_is_refused(step):
    with pytest.raises(InputError, match="must be positive"):
        LogitHinge(step=step)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("form", "name"), [("smooth", "softness"), ("exponential", "rate")])
def test_a_softness_or_rate_that_is_not_positive_is_refused(form, name, value):
    with pytest.raises(InputError, match=f"{name} must be positive"):
        LogitHinge(form=form, **{name: value})


@pytest.mark.parametrize(("form", "name"), [("hinge", "softness"), ("smooth", "rate"), ("quadratic", "rate")])
def test_an_option_of_another_form_is_refused(form, name):
    with pytest.raises(InputError, match=f"{name} belongs to form .*{form}"):
        LogitHinge(form=form, **{name: 0.5})


@pytest.mark.parametrize("dead_zone", [-1e-3, float("nan"), float("inf")])
def test_a_dead_zone_below_zero_is_refused(dead_zone):
    with pytest.raises(InputError, match="dead_zone"):
        LogitHinge(dead_zone=dead_zone)


def test_a_step_to_be_measured_is_of_no_use_before(logits):
    term = LogitHinge(step=MeasuredStep())
    with pytest.raises(AssertionError, match="measured"):
        logits.seen(term)
