"""The hinge on the layers' outputs, each layer with its own margin."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import LayerHinge, MeasuredStep, TermInputs

LABELS = torch.zeros(2, 3, dtype=torch.long)


@pytest.fixture
def states():
    """Layers 1 and 3: [2, 4, 6] of the model and of the target."""
    live, target = np.random.default_rng(3).normal(size=(2, 2, 2, 4, 6))
    return dict(zip((1, 3), live, strict=True)), dict(zip((1, 3), target, strict=True))


def seen(states):
    live, target = ({layer: torch.from_numpy(value) for layer, value in side.items()} for side in states)
    return TermInputs(LABELS, layers=live, frozen_layers=target)


def by_hand(states, margins):
    live, target = states
    slacks = [margin - np.abs(live[layer] - target[layer]) for layer, margin in margins.items()]
    return sum(np.maximum(0, slack).mean() for slack in slacks) / len(slacks)


def test_one_step_serves_all_layers(states):
    found = LayerHinge([1, 3], step=1.4).loss(seen(states)).item()
    assert math.isclose(found, by_hand(states, {1: 0.7, 3: 0.7}), rel_tol=1e-12)


def test_a_position_counts_where_its_own_token_is_real(states):
    labels = torch.tensor([[0, 0, -100], [-100, -100, 0]])
    found = LayerHinge([1, 3], step=1.4).loss(seen(states)._replace(labels=labels)).item()
    kept = np.array([[True, True, True, False], [False, False, False, True]])
    cut = tuple({layer: value[kept] for layer, value in side.items()} for side in states)
    assert math.isclose(found, by_hand(cut, {1: 0.7, 3: 0.7}), rel_tol=1e-12)


def test_measured_steps_are_each_layer_s_own(states):
    term = LayerHinge([1, 3])
    term.measured = {1: 0.4, 3: 3.0}
    assert math.isclose(term.loss(seen(states)).item(), by_hand(states, {1: 0.2, 3: 1.5}), rel_tol=1e-12)


def test_a_layer_that_was_not_measured_is_an_error(states):
    with pytest.raises(KeyError):
        LayerHinge([1, 3]).loss(seen(states))


@pytest.mark.parametrize(("dead_zone", "moved"), [(1e-4, 0), (0.0, 2 * 4 * 6)])
def test_rounding_noise_moves_nothing_within_the_dead_zone(states, dead_zone, moved):
    target = torch.from_numpy(states[1][1])
    live = (target + 1e-6 * torch.from_numpy(states[0][1])).requires_grad_()
    term = LayerHinge([1], step=1.0, dead_zone=dead_zone)
    term.loss(TermInputs(LABELS, layers={1: live}, frozen_layers={1: target})).backward()
    assert torch.count_nonzero(live.grad) == moved


def test_it_reads_the_named_layers_of_both_models():
    assert LayerHinge([0, 2]).needs.layers == (0, 2)
    assert LayerHinge().needs.layers is None
    assert LayerHinge().needs.frozen == {"layers"}


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_not_positive_is_refused(step):
    with pytest.raises(InputError, match="must be positive"):
        LayerHinge(step=step)


@pytest.mark.parametrize("dead_zone", [-1e-3, float("nan"), float("inf")])
def test_a_dead_zone_below_zero_is_refused(dead_zone):
    with pytest.raises(InputError, match="dead_zone"):
        LayerHinge(dead_zone=dead_zone)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1, float("nan")])
def test_a_quantile_outside_0_to_1_is_refused(quantile):
    with pytest.raises(InputError, match=r"\(0, 1\)"):
        MeasuredStep(quantile=quantile)


def test_a_measured_step_without_a_window_is_refused():
    with pytest.raises(InputError, match="at least 1 window"):
        MeasuredStep(max_windows=0)


def test_a_layer_hinge_on_no_layer_is_refused():
    with pytest.raises(InputError, match="names no layer"):
        LayerHinge(layers=[])


def test_layers_may_be_shares_of_the_depth():
    assert LayerHinge(layers=[0.25, 3]).needs.layers == (0.25, 3)
