"""Tokens drawn by number: which they are, how often, and what the square of their gradient estimates."""

import torch

from quail_lightning.functional.sampled_tokens import DRAWS, draws_like, sampled_log_likelihood
from quail_lightning.functional.token_likelihood import IGNORED

P = torch.tensor([0.5, 0.125, 0.25, 0.125], dtype=torch.float64)


def test_a_draw_is_a_place_in_the_cumulative_distribution():
    places = torch.tensor([0.0, 0.49, 0.51, 0.62, 0.63, 0.87, 0.88, 0.9999])
    labels = torch.cat([(places * DRAWS).long(), torch.tensor([IGNORED])])
    found = sampled_log_likelihood(P.log().expand(9, 4), labels, None)
    expected = P[torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])].log()
    torch.testing.assert_close(found[:8], expected)
    assert found[8] == 0


def test_draws_stay_where_a_token_is_real_and_repeat_by_seed():
    labels = torch.tensor([[3, IGNORED, 4], [IGNORED, 1, 2]])
    first, again, other = (draws_like(labels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first == IGNORED, labels == IGNORED)
    assert 0 <= first[labels != IGNORED].min() <= first.max() < DRAWS


def test_the_mean_square_of_the_gradient_is_the_diagonal_of_the_gauss_newton_matrix():
    logits = P.log().expand(200_000, 4).clone().requires_grad_()
    labels = draws_like(torch.zeros(200_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    sampled_log_likelihood(logits, labels, None).sum().backward()
    torch.testing.assert_close(logits.grad.mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=3e-3)
    torch.testing.assert_close(logits.grad.square().mean(0), P * (1 - P), rtol=0.01, atol=0)


def test_16_bit_logits_draw_what_their_values_in_float32_draw():
    drawn = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = draws_like(torch.zeros(64, dtype=torch.int64), torch.Generator().manual_seed(1))
    found, wide = (sampled_log_likelihood(logits, labels, None) for logits in (drawn, drawn.float()))
    assert torch.equal(found, wide)
