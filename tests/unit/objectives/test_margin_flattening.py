"""PDU's forget term over real tokens, written out in float64."""

import math

import numpy as np
import torch

from quail_lightning.functional.flattening import squared_margin
from quail_lightning.objectives import MarginFlattening


def test_value_and_gradient_are_those_of_the_mean_squared_margin(logits):
    term = MarginFlattening()
    live = torch.from_numpy(logits.live).requires_grad_()
    loss = term.loss(logits.seen(term, live))
    loss.backward()
    total, expected = 0.0, np.zeros_like(logits.live)
    for b, t in logits.real:
        z = logits.live[b, t]
        margin = max(z) - sum(z) / 5
        total += margin**2
        expected[b, t] = 2 * margin * (np.eye(5)[z.argmax()] - 1 / 5) / 5
    assert math.isclose(loss.item(), total / 5, rel_tol=1e-12)
    np.testing.assert_allclose(live.grad, expected, rtol=1e-9, atol=1e-15)


def test_it_is_zero_where_no_token_is_preferred_and_sees_no_common_shift():
    labels = torch.zeros(2, dtype=torch.int64)
    flat = torch.full((2, 7), -3.0)
    assert squared_margin(flat, labels, None).tolist() == [0.0, 0.0]
    drawn = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(squared_margin(drawn + 100, labels, None), squared_margin(drawn, labels, None))


def test_16_bit_logits_are_squared_in_float32():
    drawn = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(squared_margin(drawn, labels, None), squared_margin(drawn.float(), labels, None))
