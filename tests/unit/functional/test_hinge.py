"""The hinge and its other forms against Eq. 14 and section X-B of QUAIL written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.hinge import hinge

STEP, SOFTNESS, RATE = 0.7, 0.2, 1.3
FORMS = ("hinge", "smooth", "quadratic", "exponential")


def by_entry(form, distance):
    """Δ_q/2 = 0.35; the four formulas for one |z' − z|."""
    slack = STEP / 2 - distance
    return {
        "hinge": max(0.0, slack),
        "smooth": SOFTNESS * math.log(1 + math.exp(slack / SOFTNESS)),
        "quadratic": max(0.0, slack) ** 2,
        "exponential": math.exp(-RATE * (distance - STEP / 2)),
    }[form]


def slope_by_entry(form, difference):
    """Derivative of the above by z'."""
    slack, sign = STEP / 2 - abs(difference), math.copysign(1.0, difference)
    return (
        -sign
        * {
            "hinge": 1.0 if slack > 0 else 0.0,
            "smooth": 1 / (1 + math.exp(-slack / SOFTNESS)),
            "quadratic": 2 * max(0.0, slack),
            "exponential": RATE * math.exp(RATE * slack),
        }[form]
    )


def found(live, reference, form, **other):
    return hinge(live, reference, STEP, form=form, softness=SOFTNESS, rate=RATE, **other)


@pytest.fixture
def case():
    """[2, 3, 5]; differences on both sides of the margin, none nearer than 0.01 to a kink."""
    rng = np.random.default_rng(0)
    difference = rng.uniform(0.01, 0.33, size=(2, 3, 5)) + 0.37 * rng.integers(0, 2, size=(2, 3, 5))
    difference *= rng.choice([-1, 1], size=difference.shape)
    reference = rng.normal(size=(2, 3, 5))
    return torch.from_numpy(reference + difference), torch.from_numpy(reference)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_equals_its_formula_written_out_in_float64(case, form):
    live, reference = case
    expected = [
        [sum(by_entry(form, distance) for distance in row) / 5 for row in window]
        for window in (live - reference).abs().tolist()
    ]
    np.testing.assert_allclose(found(live, reference, form).numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_the_derivative_by_hand_and_finite_differences(case, form):
    live, reference = case[0].requires_grad_(), case[1]
    (gradient,) = torch.autograd.grad(found(live, reference, form).sum(), live)
    differences = (live.detach() - reference).numpy()
    by_hand = np.vectorize(lambda difference: slope_by_entry(form, difference) / 5)(differences)
    np.testing.assert_allclose(gradient.numpy(), by_hand, rtol=0, atol=1e-13)
    for place in np.ndindex(2, 3, 5):
        shift = torch.zeros_like(reference)
        shift[place] = 1e-5
        with torch.no_grad():
            ends = [found(live + sign * shift, reference, form).sum().item() for sign in (1, -1)]
        assert math.isclose(gradient[place].item(), (ends[0] - ends[1]) / 2e-5, rel_tol=1e-5, abs_tol=1e-8)


def test_hinge_by_hand():
    live, reference = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.2, 3.5, 1.0]])
    # distances 0, 0.2, 0.5, 3; margin 0.5 → 0.5, 0.3, 0, 0
    assert torch.allclose(hinge(live, reference, step=1.0), torch.tensor([0.2]))


@pytest.mark.parametrize("form", ["hinge", "quadratic"])
def test_hinge_is_zero_and_flat_beyond_the_margin(form):
    live = torch.tensor([[5.0, -5.0]], requires_grad=True)
    value = found(live, torch.zeros(1, 2), form).sum()
    value.backward()
    assert value == 0
    assert torch.equal(live.grad, torch.zeros(1, 2))


@pytest.mark.parametrize("form", ["smooth", "exponential"])
def test_smooth_and_exponential_never_quite_let_go(form):
    live = torch.tensor([[1.5, -1.5]], requires_grad=True)
    found(live, torch.zeros(1, 2), form).sum().backward()
    assert live.grad[0, 0] < 0 < live.grad[0, 1]


def test_gradient_pushes_away_from_the_reference_within_the_margin():
    live = torch.tensor([[0.1, -0.1, 0.0, 2.0]], requires_grad=True)
    hinge(live, torch.zeros(1, 4), step=1.0).sum().backward()
    # descent on −sign(z' − z)/K moves z' further away; none at equality, none beyond
    assert torch.equal(live.grad, torch.tensor([[-0.25, 0.25, 0.0, 0.0]]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("centred", [False, True])
def test_at_equality_every_form_is_at_its_maximum_and_has_no_gradient(form, centred):
    reference = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    live = reference.clone().requires_grad_()
    value = found(live, reference, form, centred=centred)
    value.sum().backward()
    assert torch.allclose(value, torch.tensor(by_entry(form, 0.0)))
    assert torch.equal(live.grad, torch.zeros(3, 7))


@pytest.mark.parametrize("form", FORMS)
def test_within_the_dead_zone_nothing_moves_and_outside_nothing_changes(form):
    reference = torch.zeros(1, 6, dtype=torch.float64)
    live = torch.tensor([[0.0, 0.05, -0.05, 0.051, -0.2, 3.0]], dtype=torch.float64, requires_grad=True)
    value = found(live, reference, form, dead_zone=0.05)
    (gradient,) = torch.autograd.grad(value.sum(), live)
    expected = [0.0, 0.0, 0.0] + [slope_by_entry(form, d) / 6 for d in (0.051, -0.2, 3.0)]
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=0, atol=1e-15)
    entries = [by_entry(form, d) for d in (0, 0, 0, 0.051, 0.2, 3.0)]
    assert math.isclose(value.item(), sum(entries) / 6, rel_tol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_rounding_noise_has_a_direction_without_a_dead_zone_and_none_with_one(form):
    generator = torch.Generator().manual_seed(2)
    live = torch.rand(4, 50, generator=generator).requires_grad_()
    noisy = live.detach() + 1e-6 * torch.randn(4, 50, generator=generator)
    (plain,) = torch.autograd.grad(found(live, noisy, form).sum(), live)
    (quiet,) = torch.autograd.grad(found(live, noisy, form, dead_zone=1e-3).sum(), live)
    # nearly every entry is pushed as if it really differed ...
    assert (plain.abs() > 0.5 * abs(slope_by_entry(form, 1e-9)) / 50).float().mean() > 0.9
    assert torch.equal(quiet, torch.zeros(4, 50))  # ... and none, once such differences count as none


@pytest.mark.parametrize("form", FORMS)
def test_one_number_added_to_all_logits_satisfies_the_plain_hinge_but_not_the_centred_one(form):
    reference = torch.randn(3, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    live = reference + 10.0  # the same distribution
    assert torch.allclose(live.softmax(-1), reference.softmax(-1))
    np.testing.assert_allclose(found(live, reference, form, centred=True).numpy(), by_entry(form, 0.0), rtol=1e-12)
    np.testing.assert_allclose(found(live, reference, form).numpy(), by_entry(form, 10.0), rtol=0, atol=1e-9)


def test_the_centred_hinge_takes_the_mean_difference_off():
    live, reference = torch.tensor([[1.1, 0.0, 0.4]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    # mean 0.5: distances 0.6, 0.5, 0.1; margin 1 → 0.4, 0.5, 0.9
    assert math.isclose(hinge(live, reference, step=2.0, centred=True).item(), 0.6, rel_tol=1e-12)


def test_the_smooth_form_tends_to_the_hinge_from_above(case):
    plain = hinge(*case, STEP)
    softnesses = (1, 0.1, 0.01)
    gaps = [(hinge(*case, STEP, form="smooth", softness=beta) - plain).max().item() for beta in softnesses]
    assert gaps[0] > gaps[1] > gaps[2] >= 0
    # softplus exceeds max(0, ·) by β·log 2 at most
    assert all(gap <= beta * math.log(2) for gap, beta in zip(gaps, softnesses, strict=True))
    assert torch.allclose(hinge(*case, STEP, form="smooth", softness=1e-6), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_logits_far_apart_give_finite_values_and_gradients(form):
    live = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = found(live, torch.tensor([[-1e4, 1e4, 0.0]]), form)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(live.grad).all()


def test_no_gradient_flows_into_the_reference():
    reference = torch.zeros(1, 2, requires_grad=True)
    live = torch.full((1, 2), 0.1, requires_grad=True)
    hinge(live, reference, step=1.0).sum().backward()
    assert reference.grad is None


def test_bfloat16_logits_are_compared_in_float32():
    live, reference = torch.tensor([[16.0]], dtype=torch.bfloat16), torch.tensor([[16.125]], dtype=torch.bfloat16)
    value = hinge(live, reference, step=1.0)
    assert value.dtype == torch.float32
    assert value.item() == 0.375
