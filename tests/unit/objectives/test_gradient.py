"""GA and GDR against float64 arithmetic, with the signs that the papers mean."""

import math

import torch

from quail_lightning.objectives import GradientAscent, GradientDescent


def test_gradient_ascent_minimizes_the_mean_log_likelihood_of_real_tokens(logits):
    expected = logits.log_likelihoods(logits.live).sum() / 5  # five of the six labels are real
    assert math.isclose(GradientAscent().loss(logits.seen(GradientAscent())).item(), expected, rel_tol=1e-12)


def test_gradient_descent_minimizes_the_mean_negative_log_likelihood(logits):
    expected = -logits.log_likelihoods(logits.live).sum() / 5
    assert math.isclose(GradientDescent().loss(logits.seen(GradientDescent())).item(), expected, rel_tol=1e-12)


def likelihood_after_a_step(logits, term):
    live = torch.from_numpy(logits.live).requires_grad_()
    term.loss(logits.seen(term, live)).backward()
    return logits.log_likelihoods((live.detach() - 0.1 * live.grad).numpy()).sum()


def test_a_step_against_the_ascent_gradient_makes_the_forget_text_less_likely(logits):
    # QUAIL's Eq. 16 and the failure paper's Eq. 1 are printed with the other sign
    assert likelihood_after_a_step(logits, GradientAscent()) < logits.log_likelihoods(logits.live).sum()


def test_a_step_against_the_descent_gradient_makes_the_retain_text_more_likely(logits):
    assert likelihood_after_a_step(logits, GradientDescent()) > logits.log_likelihoods(logits.live).sum()


def test_the_target_is_not_asked():
    assert not GradientAscent().needs.frozen
    assert not GradientDescent().needs.frozen
