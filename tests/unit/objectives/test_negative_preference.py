"""NPO on sequence log-probabilities, written out in float64 (PROTOCOL.md, section 7, defect 1)."""

import math

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, NegativePreference


def shown(logits, term, live=None):
    """The target's log-likelihood of each window stands beside the live one of each token."""
    target = torch.from_numpy(logits.log_likelihoods(logits.target).sum(axis=1))
    return logits.seen(term, live, frozen_likelihood=target)


def log_ratios(logits):
    return (logits.log_likelihoods(logits.live) - logits.log_likelihoods(logits.target)).sum(axis=1)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_npo_is_that_of_the_sum_of_each_window_s_log_ratios(logits, beta):
    values = [-2 / beta * math.log(1 / (1 + math.exp(beta * ratio))) for ratio in log_ratios(logits)]
    term = NegativePreference(beta)
    assert math.isclose(term.loss(shown(logits, term)).item(), sum(values) / 2, rel_tol=1e-12)


def test_neither_the_mean_of_tokens_nor_of_raw_logits_gives_the_same(logits):
    # the published code: −2/β · log σ(−β · (z' − z)), averaged over batch, time and vocabulary
    term, beta = NegativePreference(1.0), 1.0
    found = term.loss(shown(logits, term)).item()
    raw = 2 / beta * torch.nn.functional.softplus(beta * torch.from_numpy(logits.live - logits.target)).mean()
    by_token = logits.log_likelihoods(logits.live) - logits.log_likelihoods(logits.target)
    tokens = [2 / beta * math.log1p(math.exp(beta * by_token[place])) for place in logits.real]
    assert abs(found - raw.item()) > 1e-2
    assert abs(found - sum(tokens) / 5) > 1e-2


def test_npo_depends_on_the_labels(logits):
    term = NegativePreference()
    before = term.loss(shown(logits, term)).item()
    logits.labels[0, 0] = (logits.labels[0, 0] + 1) % 5
    assert term.loss(shown(logits, term)).item() != before


def test_per_token_npo_takes_the_mean_over_each_window_s_real_tokens(logits):
    ratios = log_ratios(logits) / [3, 2]
    values = [-2 / 4.0 * math.log(1 / (1 + math.exp(4.0 * ratio))) for ratio in ratios]
    term = NegativePreference(4.0, per_token=True)
    assert math.isclose(term.loss(shown(logits, term)).item(), sum(values) / 2, rel_tol=1e-12)


def test_a_window_without_a_real_token_does_not_count(logits):
    logits.ignore(1)
    term, beta = NegativePreference(0.5), 0.5
    expected = 2 / beta * math.log1p(math.exp(beta * log_ratios(logits)[0]))
    assert math.isclose(term.loss(shown(logits, term)).item(), expected, rel_tol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_at_the_start_the_gradient_is_that_of_gradient_ascent_on_whole_windows(logits, beta):
    logits.live = logits.target
    gradients = []
    for term in (NegativePreference(beta), GradientAscent()):
        live = torch.from_numpy(logits.live).requires_grad_()
        term.loss(shown(logits, term, live)).backward()
        gradients.append(live.grad)
    # GA averages over 5 real tokens, NPO sums over tokens and averages over 2 windows
    torch.testing.assert_close(gradients[0], gradients[1] * 5 / 2, rtol=1e-10, atol=1e-14)


def test_a_forgotten_window_no_longer_moves_anything(logits):
    logits.live = logits.live.copy()
    for b, t in logits.real:
        logits.live[b, t, logits.labels[b, t]] -= 1e4
    live, term = torch.from_numpy(logits.live).requires_grad_(), NegativePreference()
    loss = term.loss(shown(logits, term, live))
    loss.backward()
    assert loss == 0
    assert torch.equal(live.grad, torch.zeros_like(live))


def test_npo_reads_the_target_s_likelihood_and_not_its_logits():
    assert NegativePreference().needs.frozen == {"likelihood"}


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(InputError, match="beta must be positive"):
        NegativePreference(beta)
