"""Both divergences against sums written out in float64; both flat where the distributions agree."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.divergence import kl_divergence

DIRECTIONS = ("unlearned-target", "target-unlearned")


def distribution(logits):
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


@pytest.fixture
def case():
    rng = np.random.default_rng(4)
    return rng.normal(size=(2, 3, 6)) * 2, rng.normal(size=(2, 3, 6)) * 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergence_equals_the_sum_written_out_in_float64(case, direction):
    live, reference = case
    expected = np.zeros((2, 3))
    for b, t in np.ndindex(2, 3):
        unlearned, target = distribution(live[b, t]), distribution(reference[b, t])
        p, q = (unlearned, target) if direction == "unlearned-target" else (target, unlearned)
        expected[b, t] = sum(p[k] * math.log(p[k] / q[k]) for k in range(6))
    found = kl_divergence(torch.from_numpy(live), torch.from_numpy(reference), direction)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_divergence_by_hand_and_the_paper_s_direction_is_the_default():
    live, reference = torch.tensor([0.0, 0.0]), torch.tensor([math.log(3.0), 0.0])
    # p' = (1/2, 1/2), p = (3/4, 1/4)
    assert math.isclose(kl_divergence(live, reference).item(), 0.5 * math.log(4 / 3), rel_tol=1e-6)
    other = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert math.isclose(kl_divergence(live, reference, "target-unlearned").item(), other, rel_tol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_equals_its_closed_form(case, direction):
    live, reference = torch.from_numpy(case[0]).requires_grad_(), torch.from_numpy(case[1])
    (found,) = torch.autograd.grad(kl_divergence(live, reference, direction).sum(), live)
    expected = np.zeros((2, 3, 6))
    for b, t in np.ndindex(2, 3):
        p, q = distribution(case[0][b, t]), distribution(case[1][b, t])
        total = sum(p[k] * math.log(p[k] / q[k]) for k in range(6))
        for k in range(6):
            towards = p[k] - q[k]  # the gradient of a cross-entropy
            expected[b, t, k] = p[k] * (math.log(p[k] / q[k]) - total) if direction == DIRECTIONS[0] else towards
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_at_equality_value_and_gradient_are_exactly_zero(direction, dtype):
    # PROTOCOL.md, section 7, defect 2: `kl_div` of raw logits has a gradient there. So has, by rounding (1e-7),
    # the KL formula left to autograd; AdamW makes full steps of either.
    reference = (torch.randn(5, 3000, generator=torch.Generator().manual_seed(5)) * 4).to(dtype)
    live = reference.clone().requires_grad_()
    value = kl_divergence(live, reference, direction)
    value.sum().backward()
    assert torch.equal(value, torch.zeros_like(value))
    assert torch.equal(live.grad, torch.zeros_like(reference))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_the_distributions_that_count_and_not_the_logits(case, direction):
    live, reference = map(torch.from_numpy, case)
    assert torch.allclose(kl_divergence(live + 7, reference, direction), kl_divergence(live, reference, direction))
    assert kl_divergence(reference + 7, reference, direction).abs().max() < 1e-14


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_logits_far_apart_give_finite_values_and_gradients(direction):
    live = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = kl_divergence(live, torch.tensor([[-1e4, 1e4, 0.0]]), direction)
    value.sum().backward()
    assert math.isclose(value.item(), 2e4, rel_tol=1e-6)
    assert torch.isfinite(live.grad).all()


def test_no_gradient_flows_into_the_reference(case):
    live, reference = (torch.from_numpy(part).requires_grad_() for part in case)
    kl_divergence(live, reference).sum().backward()
    assert live.grad is not None
    assert reference.grad is None


def test_bfloat16_logits_are_compared_in_float32():
    value = kl_divergence(torch.tensor([[0.0, 0.0]]).bfloat16(), torch.tensor([[1.0, 0.0]]).bfloat16())
    p = math.e / (1 + math.e)
    assert value.dtype == torch.float32
    assert math.isclose(value.item(), 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)), rel_tol=1e-6)
