"""DPO on answers' log-probabilities, written out in float64."""

import copy
import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import DirectPreference, NegativePreference


@pytest.fixture
def alternate(logits):
    """Another answer to each question: its own logits and labels, of which the first window has fewer."""
    other, rng = copy.deepcopy(logits), np.random.default_rng(9)
    other.live, other.target = rng.normal(size=(2, 2, 3, 5))
    other.labels = rng.integers(0, 5, size=(2, 3))
    other.labels[0, 1:] = -100
    other.real = [(b, t) for b in range(2) for t in range(3) if other.labels[b, t] != -100]
    return other


def shown(logits, alternate, term, live=None, live_alternate=None):
    def alone(of, leaf):
        target = torch.from_numpy(of.log_likelihoods(of.target).sum(axis=1))
        return of.seen(term, leaf, frozen_likelihood=target)

    return alone(logits, live)._replace(alternate=alone(alternate, live_alternate))


def log_ratios(of):
    return (of.log_likelihoods(of.live) - of.log_likelihoods(of.target)).sum(axis=1)


def by_hand(worse, better, beta):
    """−2/β · log σ(β (r_w − r_l)), as the code of AltPO and open-unlearning."""
    return [-2 / beta * math.log(1 / (1 + math.exp(-beta * (w - v)))) for v, w in zip(worse, better, strict=True)]


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_dpo_is_that_of_the_sums_of_both_answers_log_ratios(logits, alternate, beta):
    expected = sum(by_hand(log_ratios(logits), log_ratios(alternate), beta)) / 2
    term = DirectPreference(beta)
    assert math.isclose(term.loss(shown(logits, alternate, term)).item(), expected, rel_tol=1e-12)


def test_per_token_dpo_takes_the_mean_over_each_answer_s_own_tokens(logits, alternate):
    expected = sum(by_hand(log_ratios(logits) / [3, 2], log_ratios(alternate) / [1, 3], 4.0)) / 2
    term = DirectPreference(4.0, per_token=True)
    assert math.isclose(term.loss(shown(logits, alternate, term)).item(), expected, rel_tol=1e-12)


def test_the_gradient_is_that_of_the_paper_by_differences(logits, alternate):
    term, step = DirectPreference(0.7), 1e-6
    leaves = [torch.from_numpy(of.live).requires_grad_() for of in (logits, alternate)]
    term.loss(shown(logits, alternate, term, *leaves)).backward()
    for of, leaf in zip((logits, alternate), leaves, strict=True):
        assert leaf.grad.abs().max() > 1e-2
        for place in [(0, 0, 1), (1, 1, 4), (1, 2, 0)]:
            values, kept = [], of.live.copy()
            for sign in (1, -1):
                of.live = kept.copy()
                of.live[place] += sign * step
                values.append(sum(by_hand(log_ratios(logits), log_ratios(alternate), 0.7)) / 2)
            of.live = kept
            difference = (values[0] - values[1]) / (2 * step)
            assert math.isclose(leaf.grad[place].item(), difference, rel_tol=1e-6, abs_tol=1e-9)


def test_at_the_start_the_true_answer_is_pushed_as_by_npo_and_the_alternate_the_other_way(logits, alternate):
    logits.live, alternate.live = logits.target, alternate.target
    pushed = []
    for term in (DirectPreference(), NegativePreference()):
        leaves = [torch.from_numpy(of.live).requires_grad_() for of in (logits, alternate)]
        term.loss(shown(logits, alternate, term, *leaves)).backward()
        pushed.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(pushed[0][0], pushed[1][0], rtol=1e-12, atol=1e-14)
    assert pushed[1][1] is None
    first = alternate.labels[0, 0]
    assert pushed[0][1][0, 0, first] < 0  # descending the loss makes the alternate's token likelier


def test_without_alternates_it_says_what_gives_them(logits):
    term = DirectPreference()
    seen = logits.seen(term, frozen_likelihood=torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"the data gives none.*Set data\.alternates"):
        term.loss(seen)


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(InputError, match="beta must be positive"):
        DirectPreference(beta)
