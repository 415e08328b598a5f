"""The closed-form edit against the least-squares problem that it solves, in float64."""

import numpy as np
import pytest
import torch

from quail_lightning.functional.ridge import ridge_projection

RANDOM = np.random.default_rng(5)
FORGET, RETAIN, CHANGE = RANDOM.normal(size=(24, 7)), RANDOM.normal(size=(24, 50)), RANDOM.normal(size=(10, 24))
"""Inputs are columns: [inputs, samples]; a change [outputs, inputs]."""


def moment(inputs):
    return torch.from_numpy(inputs @ inputs.T / inputs.shape[1])


@pytest.mark.parametrize("retain_weight", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_it_is_the_least_squares_edit(retain_weight, ridge):
    """Stacked: √(1/n) K_f towards the change's own output, √(μ/m) K_r and √λ I towards nothing."""
    found = CHANGE @ ridge_projection(moment(FORGET), moment(RETAIN), retain_weight, ridge).numpy()
    scale = ridge * np.trace(FORGET @ FORGET.T / FORGET.shape[1]) / 24
    seen = np.hstack([FORGET / np.sqrt(7), np.sqrt(retain_weight / 50) * RETAIN, np.sqrt(scale) * np.eye(24)])
    wanted = np.hstack([CHANGE @ FORGET / np.sqrt(7), np.zeros((10, 50)), np.zeros((10, 24))])
    expected = np.linalg.lstsq(seen.T, wanted.T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_it_equals_the_formula_with_residuals():
    keys, kept = FORGET / np.sqrt(7), RETAIN / np.sqrt(50)
    scale = 0.1 * np.trace(keys @ keys.T) / 24
    residuals = CHANGE @ keys
    expected = residuals @ keys.T @ np.linalg.inv(keys @ keys.T + 2.0 * kept @ kept.T + scale * np.eye(24))
    found = CHANGE @ ridge_projection(moment(FORGET), moment(RETAIN), 2.0, 0.1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_its_rank_is_that_of_the_forget_inputs():
    found = ridge_projection(moment(FORGET), moment(RETAIN), 1.0, 0.01)
    assert int(torch.linalg.matrix_rank(found)) == 7


def test_what_the_retain_set_alone_sees_is_left_as_it_is():
    """Forget inputs in the first half of the directions, retain inputs in the second."""
    forget, retain = torch.zeros(8, 8), torch.zeros(8, 8)
    forget.diagonal()[:4], retain.diagonal()[4:] = 2.0, 3.0
    found = ridge_projection(forget, retain, 10.0, 1e-6)
    torch.testing.assert_close(found, torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4)).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("smaller", "larger"), [((0.0, 0.01), (5.0, 0.01)), ((1.0, 0.01), (1.0, 1.0))])
def test_a_larger_weight_edits_less_of_what_the_retain_set_sees(smaller, larger):
    def disturbance(options):
        return np.linalg.norm(CHANGE @ ridge_projection(moment(FORGET), moment(RETAIN), *options).numpy() @ RETAIN)

    assert disturbance(larger) < 0.9 * disturbance(smaller)


def test_a_layer_that_the_forget_set_never_reaches_is_not_edited():
    nothing = torch.zeros(6, 6)
    assert torch.equal(ridge_projection(nothing, None, 1.0, 0.01), torch.zeros(6, 6).double())
