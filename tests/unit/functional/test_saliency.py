"""SURE's threshold and norms by hand."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.saliency import block_norms, saliency_threshold


def test_the_threshold_interpolates_between_the_scores():
    scores = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 5.0}
    assert saliency_threshold(scores, 75) == 4.0
    assert math.isclose(saliency_threshold(scores, 90), 4.6)  # 0.6 of the way from 4 to 5


@pytest.mark.parametrize("percentile", [90.0, 95.0, 99.0])
def test_the_threshold_keeps_the_share_above_it(percentile):
    values = np.random.default_rng(9).permutation(1000) / 10
    threshold = saliency_threshold({str(n): value for n, value in enumerate(values)}, percentile)
    assert (values >= threshold).sum() == 1000 - 10 * percentile


def test_one_score_is_its_own_threshold():
    assert saliency_threshold({"only": 0.25}, 95) == 0.25


@pytest.mark.parametrize("percentile", [0, 100, -1, 101, float("nan")])
def test_a_percentile_outside_0_to_100_is_refused(percentile):
    with pytest.raises(InputError, match=r"\(0, 100\)"):
        saliency_threshold({"a": 1.0}, percentile)


def test_block_norms_split_rows_or_columns_into_equal_parts():
    gradient = torch.tensor([[3.0, 0, 0, 0], [4.0, 0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 12.0]])
    assert block_norms(gradient, 2, dim=0).tolist() == [5.0, 13.0]
    assert block_norms(gradient, 4, dim=1).tolist() == [5.0, 0.0, 5.0, 12.0]
    assert torch.allclose(block_norms(gradient, 1, dim=0), torch.tensor([math.sqrt(9 + 16 + 25 + 144)]))


@pytest.mark.parametrize("dim", [0, 1])
def test_block_norms_equal_loops_over_each_block_s_entries(dim):
    gradient = np.random.default_rng(10).normal(size=(6, 12))
    expected = []
    for block in range(3):
        parts = gradient[2 * block : 2 * block + 2] if dim == 0 else gradient[:, 4 * block : 4 * block + 4]
        expected.append(math.sqrt(sum(value**2 for row in parts for value in row)))
    found = block_norms(torch.from_numpy(gradient), 3, dim)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_norms_of_a_bfloat16_gradient_are_summed_in_float32():
    # 4096 squares of 1: bfloat16 could not count beyond 256
    norms = block_norms(torch.ones(64, 64, dtype=torch.bfloat16), 1, dim=0)
    assert norms.dtype == torch.float32
    assert norms.item() == 64


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused_with_its_module(score):
    with pytest.raises(InputError, match=r"no finite gradient in model\.layers\.1"):
        saliency_threshold({"model.layers.0": 1.0, "model.layers.1": score}, 90)
