"""The output head against loops in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.head import Head


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("biased", [False, True])
def test_logits_equal_the_formula_written_out_in_float64(biased, scale, softcap):
    rng = np.random.default_rng(11)
    hidden, weight, bias = rng.normal(size=(2, 3, 4)) * 3, rng.normal(size=(5, 4)), rng.normal(size=5)
    head = Head(torch.from_numpy(weight), torch.from_numpy(bias) if biased else None, scale, softcap)
    expected = np.zeros((2, 3, 5))
    for b, t, v in np.ndindex(2, 3, 5):
        z = sum(weight[v, k] * hidden[b, t, k] for k in range(4)) + (bias[v] if biased else 0.0)
        z *= scale  # of the biased product: Cohere and Granite scale what their head gives
        expected[b, t, v] = z if softcap is None else softcap * math.tanh(z / softcap)
    found = head.logits(torch.from_numpy(hidden))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_bfloat16_head_multiplies_in_bfloat16_and_finishes_in_float32():
    weight, bias = torch.tensor([[1.0, 1 / 256]]).bfloat16(), torch.tensor([1 / 256]).bfloat16()
    found = Head(weight, bias).logits(torch.tensor([[1.0, 1.0]]))
    # 1 + 1/256 lies halfway between two bfloat16 numbers, and 1 is the even one; the bias is not lost
    assert found.dtype == torch.float32
    assert found.item() == 1 + 1 / 256


def test_casting_changes_the_matrix_and_nothing_else():
    head = Head(torch.ones(2, 2), torch.ones(2), 0.5, 30.0)
    cast = head.cast(torch.bfloat16)
    assert cast.weight.dtype == torch.bfloat16
    assert cast[1:] == head[1:]


def test_the_head_s_own_parameters_take_the_gradient():
    weight = torch.nn.Parameter(torch.ones(3, 2))
    Head(weight).logits(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert torch.equal(weight.grad, torch.tensor([[1.0, 2.0]] * 3))
