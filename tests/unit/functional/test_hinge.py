"""The hinge against Eq. 14 written out in float64."""

import numpy as np
import torch

from quail_lightning.functional.hinge import logit_hinge


def test_hinge_equals_equation_14_written_out_in_float64():
    rng = np.random.default_rng(0)
    live, reference = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    expected = np.zeros((2, 3))
    for b in range(2):
        for t in range(3):
            terms = [max(0.0, 0.7 / 2 - abs(live[b, t, k] - reference[b, t, k])) for k in range(5)]
            expected[b, t] = sum(terms) / 5
    found = logit_hinge(torch.from_numpy(live), torch.from_numpy(reference), step=0.7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-15)


def test_hinge_by_hand():
    live, reference = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.2, 3.5, 1.0]])
    # distances 0, 0.2, 0.5, 3; margin 0.5 → 0.5, 0.3, 0, 0
    assert torch.allclose(logit_hinge(live, reference, step=1.0), torch.tensor([0.2]))


def test_hinge_is_zero_and_flat_beyond_the_margin():
    live = torch.tensor([[5.0, -5.0]], requires_grad=True)
    value = logit_hinge(live, torch.zeros(1, 2), step=1.0).sum()
    value.backward()
    assert value == 0
    assert torch.equal(live.grad, torch.zeros(1, 2))


def test_gradient_pushes_away_from_the_reference_within_the_margin():
    live = torch.tensor([[0.1, -0.1, 0.0, 2.0]], requires_grad=True)
    logit_hinge(live, torch.zeros(1, 4), step=1.0).sum().backward()
    # descent on −sign(z' − z)/K moves z' further away; none at equality, none beyond
    assert torch.equal(live.grad, torch.tensor([[-0.25, 0.25, 0.0, 0.0]]))


def test_no_gradient_flows_into_the_reference():
    reference = torch.zeros(1, 2, requires_grad=True)
    live = torch.full((1, 2), 0.1, requires_grad=True)
    logit_hinge(live, reference, step=1.0).sum().backward()
    assert reference.grad is None


def test_bfloat16_logits_are_compared_in_float32():
    live, reference = torch.tensor([[16.0]], dtype=torch.bfloat16), torch.tensor([[16.125]], dtype=torch.bfloat16)
    value = logit_hinge(live, reference, step=1.0)
    assert value.dtype == torch.float32
    assert value.item() == 0.375
