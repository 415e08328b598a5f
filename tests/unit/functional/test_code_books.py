"""NF4 and FP4 against bitsandbytes and by hand."""

import pytest
import torch

from quail_lightning.functional.code_books import fit_code, levels


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_levels_and_buckets_are_those_of_bitsandbytes(name):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(320, 64, generator=torch.Generator().manual_seed(2)) * 0.05
    packed, state = functional.quantize_4bit(weight, quant_type=name, blocksize=64)
    expected = functional.dequantize_4bit(packed, state)
    code = fit_code(weight, name)
    assert torch.allclose(code.value(code.index(weight)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "count"), [("nf4", 16), ("fp4", 15)])
def test_levels_ascend_from_minus_one_to_one(name, count):
    found = levels(name)
    assert (len(found), found[0], found[-1]) == (count, -1, 1)
    assert bool((found.diff() > 0).all())


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_every_weight_takes_the_nearest_level(name):
    scaled = torch.cat([torch.linspace(-1, 1, 4096 * 7), torch.tensor([-1.0, 1.0])])
    weight = torch.nn.functional.pad(scaled, (0, -len(scaled) % 64), value=1.0).view(-1, 64).clone()
    weight[:, 0] = 1.0  # so that every block has scale 1
    index = fit_code(weight, name).index(weight)
    distance = (weight.double().unsqueeze(-1) - levels(name).double()).abs()
    chosen = distance.gather(-1, index.long().unsqueeze(-1)).squeeze(-1)
    assert torch.all(chosen <= distance.amin(-1) + 1e-7)


def test_fp4_around_zero_by_hand():
    # boundaries at 1/384 and at (1/192 + 1/6)/2 = 0.0859375 of the largest magnitude
    weight = torch.tensor([8.0, 8 * 0.0025, 8 * 0.0027, 8 * 0.0858, 8 * 0.0861, -8 * 0.0027])
    code = fit_code(weight, "fp4")
    found = code.value(code.index(weight)).tolist()
    assert found == pytest.approx([8, 0, 8 / 192, 8 / 192, 8 / 6, -8 / 192])
    # the bucket of 1/192 reaches from one boundary to the other
    assert code.width(code.index(weight))[2].item() == pytest.approx(8 * (0.0859375 - 1 / 384))


def test_each_block_of_64_has_its_scale_and_a_short_one_its_own():
    weight = torch.cat([torch.full((64,), 2.0), torch.full((10,), -0.5)])
    code = fit_code(weight, "nf4")
    assert code.scale.tolist() == [2.0, 0.5]
    assert torch.equal(code.value(code.index(weight)), weight)


def test_weights_beyond_the_scale_take_the_outermost_level():
    code = fit_code(torch.linspace(-1, 1, 64), "nf4")
    beyond = torch.zeros(64)
    beyond[0], beyond[1] = -9.0, 9.0
    assert code.index(beyond)[:2].tolist() == [0, 15]


def test_a_block_of_zeros_stays_zero():
    weight = torch.zeros(64)
    code = fit_code(weight, "nf4")
    assert torch.equal(code.value(code.index(weight)), weight)
