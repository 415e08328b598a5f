"""RMU's two terms by hand; its direction is one (PROTOCOL.md, section 7, defect 4)."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import Misdirection, Needs, RepresentationRetention, TermInputs

LABELS = torch.zeros(2, 3, dtype=torch.long)
WIDTH = 6


@pytest.fixture
def states():
    return torch.from_numpy(np.random.default_rng(4).normal(size=(2, 4, WIDTH)).astype(np.float32))


def seen(layer, live, target=None):
    return TermInputs(LABELS, layers={layer: live}, frozen_layers={} if target is None else {layer: target})


def test_the_direction_is_a_unit_vector_without_negative_entries():
    for width in (1, 6, 4096):
        direction = Misdirection(0).direction(width)
        assert direction.shape == (width,)
        assert math.isclose(sum(float(entry) ** 2 for entry in direction), 1.0, rel_tol=1e-5)
        assert (direction >= 0).all()


def test_the_direction_is_the_same_in_every_step_and_run_whatever_is_drawn_between(states):
    term = Misdirection(0)
    first, loss = term.direction(WIDTH), term.loss(seen(0, states))
    torch.rand(3)
    assert torch.equal(term.direction(WIDTH), first)
    assert torch.equal(term.loss(seen(0, states)), loss)
    torch.manual_seed(7)
    assert torch.equal(Misdirection(0).direction(WIDTH), first)
    assert not torch.allclose(Misdirection(0, seed=43).direction(WIDTH), first)


def test_drawing_the_direction_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    Misdirection(0).direction(WIDTH)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_forget_term_is_the_mean_squared_distance_to_the_steered_point(states):
    term = Misdirection(2, coefficient=3.0)
    goal = 3.0 * term.direction(WIDTH).double().numpy()
    total = sum((states[b, t, k].item() - goal[k]) ** 2 for b, t, k in np.ndindex(2, 4, WIDTH))
    assert math.isclose(term.loss(seen(2, states)).item(), total / (2 * 4 * WIDTH), rel_tol=1e-5)


def test_descent_takes_every_token_to_one_and_the_same_point(states):
    # with a new direction in every step there would be none to arrive at
    term, live = Misdirection(0), states.clone().requires_grad_()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(term.loss(seen(0, live)), live)
        live = (live - 0.25 * live.numel() * gradient).detach().requires_grad_()  # halves the distance
    assert torch.allclose(live, 6.5 * term.direction(WIDTH).expand_as(live), atol=1e-5)
    assert math.isclose(live[0, 0].norm().item(), 6.5, rel_tol=1e-5)


def test_the_retain_term_is_the_mean_squared_distance_to_the_target(states):
    target = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 4, WIDTH)).astype(np.float32))
    total = sum((states[place].item() - target[place].item()) ** 2 for place in np.ndindex(2, 4, WIDTH))
    found = RepresentationRetention(2).loss(seen(2, states, target)).item()
    assert math.isclose(found, total / (2 * 4 * WIDTH), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("labels", "real"),
    [
        # a padded end; a question before an answer; a window without a real token
        ([[0, 0, -100], [-100, -100, 0]], [(0, 0), (0, 1), (0, 2), (1, 3)]),
        ([[0, 0, 0], [-100, -100, -100]], [(0, 0), (0, 1), (0, 2), (0, 3)]),
    ],
)
def test_a_position_counts_where_its_own_token_is_real(labels, real, states):
    """labels[b, t] is that of token t + 1; the first token's is not shown, and counts as the second's does."""
    target = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 4, WIDTH)).astype(np.float32))
    term, labels = Misdirection(0, coefficient=3.0), torch.tensor(labels)
    goal = 3.0 * term.direction(WIDTH)
    for each, towards in ((term, goal.expand(2, 4, WIDTH)), (RepresentationRetention(0), target)):
        found = each.loss(seen(0, states, target)._replace(labels=labels)).item()
        total = sum(
            (states[place][k].item() - towards[place][k].item()) ** 2 for place in real for k in range(WIDTH)
        )
        assert math.isclose(found, total / (len(real) * WIDTH), rel_tol=1e-5)


def test_padding_a_window_on_the_right_changes_nothing(states):
    for term in (Misdirection(0), RepresentationRetention(0)):
        alone = TermInputs(LABELS[:, :2], layers={0: states[:, :3]}, frozen_layers={0: states.flip(0)[:, :3]})
        padded = seen(0, states, states.flip(0))._replace(labels=torch.tensor([[0, 0, -100]] * 2))
        torch.testing.assert_close(term.loss(padded), term.loss(alone))


def test_the_retain_term_is_flat_where_the_models_agree(states):
    live = states.clone().requires_grad_()
    loss = RepresentationRetention(0).loss(seen(0, live, states))
    loss.backward()
    assert loss == 0
    assert torch.equal(live.grad, torch.zeros_like(states))


def test_bfloat16_states_are_compared_in_float32():
    live, target = torch.full((2, 4, 2), 16.0).bfloat16(), torch.full((2, 4, 2), 16.125).bfloat16()
    loss = RepresentationRetention(0).loss(seen(0, live, target))
    assert loss.dtype == torch.float32
    assert loss.item() == 0.125**2


def test_each_reads_the_layer_named_and_only_the_retain_term_the_target():
    assert Misdirection(5).needs == Needs(layers=(5,), mean_over="positions")
    assert RepresentationRetention(5).needs == Needs(
        layers=(5,), frozen=frozenset({"layers"}), mean_over="positions"
    )


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("nan"), float("inf")])
def test_a_coefficient_that_is_not_positive_is_refused(coefficient):
    with pytest.raises(InputError, match="coefficient must be positive"):
        Misdirection(0, coefficient=coefficient)
