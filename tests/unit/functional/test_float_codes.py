"""E2M1 and E4M3 against their specification and worked by hand; the quantizer is compared in test_narrow_float."""

import numpy as np
import pytest
import torch

from quail_lightning.functional.float_codes import ScaledFloat, fit_float, levels

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def e4m3() -> list[float]:
    """OCP 8-bit Floating Point Specification 1.0, table 1: bias 7, exponent 15 with significand 7 is NaN."""
    sizes = [(8 + m if e else m) / 8 * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8)]
    return sizes[:-1]


@pytest.mark.parametrize(("bits", "sizes"), [(4, E2M1), (8, e4m3())])
def test_levels_are_those_of_the_specification(bits, sizes):
    assert levels(bits).tolist() == sorted({*sizes, *(-size for size in sizes)})
    assert levels(bits)[-1] == {4: 6, 8: 448}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_every_value_takes_the_nearest_level_and_the_even_code_at_a_tie(bits):
    sizes = np.array(E2M1 if bits == 4 else e4m3())
    ties = (sizes[1:] + sizes[:-1]) / 2
    just = (
        np.nextafter(ties.astype(np.float32), np.float32(0)),
        np.nextafter(ties.astype(np.float32), np.float32(999)),
    )
    lower = np.arange(len(ties))
    code = ScaledFloat(bits, torch.ones(1))
    for values, expected in ((ties, lower + lower % 2), (just[0], lower), (just[1], lower + 1), (sizes, None)):
        number = np.arange(len(sizes)) if expected is None else expected
        for sign in (1, -1):
            index = code.index(torch.tensor(sign * values, dtype=torch.float32))
            assert index.tolist() == (len(sizes) - 1 + sign * number).tolist()
            assert code.value(index).tolist() == (sign * sizes[number]).tolist()


def test_what_lies_beyond_takes_the_outermost_level():
    for bits, most in ((4, 6.0), (8, 448.0)):
        code = ScaledFloat(bits, torch.ones(1))
        assert code.value(code.index(torch.tensor([-1e6, most * 1.4, 1e6]))).tolist() == [-most, most, most]


def test_buckets_reach_from_boundary_to_boundary():
    code = ScaledFloat(4, torch.tensor([2.0]))
    # 3 lies between 2.5 and 3.5, 4 between 3.5 and 5, 6 from 5 on, 0 between -0.25 and 0.25; all times the scale
    width = code.width(code.index(torch.tensor([6.0, 8.0, 12.0, 0.0])))
    assert width.tolist() == [2.0, 3.0, 2.0, 1.0]
    # E4M3 around 1: steps of 1/8 above, of 1/16 below
    eight = ScaledFloat(8, torch.ones(1))
    assert eight.width(eight.index(torch.tensor([1.125, 1.0, 448.0]))).tolist() == [0.125, 0.09375, 16.0]


def test_nvfp4_by_hand():
    # g = 448·6 / 6 = 448. Of largest magnitudes 6 and 0.0117: scales E4M3(448) and E4M3(448 · 0.00195) = 0.875
    weight = torch.zeros(2, 16)
    weight[0, :4] = torch.tensor([6.0, -2.6, 0.2, 5.0])
    weight[1, :2] = torch.tensor([0.01171875, 0.004])
    code = fit_float(weight.flatten(), "nvfp4", 16, largest=6.0)
    assert code.scale.tolist() == [1.0, 0.875 / 448]
    value = code.value(code.index(weight))
    assert value[0, :4].tolist() == [6.0, -3.0, 0.0, 4.0]  # 5 is a tie between 4 and 6, whose code is odd
    assert value[1, :2].tolist() == [0.01171875, 2 * 0.875 / 448]


def test_nvfp4_in_a_tensor_with_larger_siblings_has_coarser_scales():
    weight = torch.full((16,), 1.0)
    alone = fit_float(weight, "nvfp4", 16, largest=1.0).scale
    # g = 2688 / 3; E4M3(896 / 6) = E4M3(149.33) = 144: steps of 16 there
    shared = fit_float(weight, "nvfp4", 16, largest=3.0).scale
    assert alone.item() == pytest.approx(448 / 2688)
    assert shared.item() == pytest.approx(144 / 896)


@pytest.mark.parametrize(
    ("peak", "scale"),
    [
        (4.0, 1.0),
        (6.0, 1.0),
        (6.99, 1.0),
        (7.0, 2.0),
        (3.99, 1.0),
        (3.49, 0.5),
        (0.03, 2.0**-7),
        (0.027, 2.0**-8),
        (0.0, 2.0**-127),
    ],
)
def test_mxfp4_takes_the_power_of_two_below_and_the_next_one_from_seven_quarters_on(peak, scale):
    weight = torch.zeros(32)
    weight[5] = -peak
    assert fit_float(weight, "mxfp4", 32, largest=9.0).scale.tolist() == [scale]


def test_fp8_has_a_scale_a_row_in_bfloat16():
    weight = torch.tensor([[448.0, 1.0], [0.7, -0.1], [0.0, 0.0]])
    code = fit_float(weight, "fp8", 2, largest=9.0)
    assert code.scale[0] == 1
    assert code.scale[1] == torch.tensor(0.7 / 448).bfloat16()
    assert code.value(code.index(weight))[2].tolist() == [0.0, 0.0]
