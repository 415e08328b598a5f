"""Block levels against the gguf package's own quantization, and against blocks written by hand."""

import numpy as np
import pytest
import torch

from quail_lightning.functional.ggml_blocks import LAYOUTS, levels

gguf = pytest.importorskip("gguf")

SMALL = ("Q4_0", "Q5_0", "Q5_1", "Q8_0")  # the package quantizes to no K type


def weights(dtype: torch.dtype, rows: int = 64, inputs: int = 256) -> torch.Tensor:
    drawn = 0.05 * torch.randn(rows, inputs, generator=torch.Generator().manual_seed(2))
    drawn[0, :32] = 0
    drawn[1, :32] = -0.25  # one value, and it is negative
    return drawn.to(dtype).float()


def half(value: float) -> list[int]:
    return list(np.array([value], np.float16).view(np.uint8))


def test_layouts_are_those_of_the_gguf_package():
    for kind, layout in LAYOUTS.items():
        number = gguf.GGMLQuantizationType[kind]
        assert (layout.number, (layout.weights, layout.size)) == (number, gguf.GGML_QUANT_SIZES[number])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", SMALL)
def test_index_and_value_give_what_the_gguf_package_dequantizes(kind, dtype):
    weight, number = weights(dtype), gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(weight.numpy(), number)
    fitted = levels(weight, packed, kind)
    expected = gguf.quants.dequantize(packed, number)
    np.testing.assert_array_equal(fitted.value(fitted.index(weight)).numpy(), expected)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_values_are_those_of_any_block(kind):
    """Blocks of random bytes have every index and scale, of either sign."""
    layout = LAYOUTS[kind]
    blocks = np.random.default_rng(3).integers(0, 256, (8, layout.size), dtype=np.uint8)
    if kind == "Q8_0":
        blocks[blocks == 128] = 127  # −128 has a place in the layout, and no quantizer gives it
    for place in {"Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,)):
        blocks[:, place : place + 2] = half(-0.375 if kind == "Q4_0" else 0.0625)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]).reshape(-1, layout.shared)
    fitted = levels(torch.zeros(8, layout.weights), blocks, kind)
    counted = torch.arange(layout.lowest, layout.highest + 1).float().numpy() - layout.centre
    for step, shift, values in zip(fitted.step.numpy(), fitted.shift.numpy(), expected, strict=True):
        assert np.isin(values, counted * step + shift).all()


def test_a_super_block_s_steps_are_its_halves_times_its_six_bit_scales():
    """Q4_K written by hand: scales 1 … 8 and minima 9 … 16 but for the last, 33 and 50, which need two parts."""
    scales, minima = [1, 2, 3, 4, 5, 6, 7, 33], [9, 10, 11, 12, 13, 14, 15, 50]
    first = [scales[n] | (scales[n + 4] >> 4) << 6 for n in range(4)]
    second = [minima[n] | (minima[n + 4] >> 4) << 6 for n in range(4)]
    mixed = [(scales[n + 4] & 15) | (minima[n + 4] & 15) << 4 for n in range(4)]
    block = np.array([[*half(0.5), *half(0.25), *first, *second, *mixed, *[0] * 128]], np.uint8)
    fitted = levels(torch.zeros(1, 256), block, "Q4_K")
    assert fitted.step.tolist() == [0.5 * scale for scale in scales]
    assert fitted.shift.tolist() == [-0.25 * low for low in minima]
    assert fitted.value(torch.full((1, 256), 3))[0, 255] == 3 * 16.5 - 12.5
    # of sub-block 0: steps of 0.5 from −2.25; 7.5 is the fifteenth and last, ties go to the even index
    asked = torch.zeros(1, 256)
    asked[0, :6] = torch.tensor([-9.0, -2.25, -2.0, -1.5, 5.25, 9.0])
    assert fitted.index(asked)[0, :6].tolist() == [0, 0, 0, 2, 15, 15]
    assert fitted.width(torch.zeros(1, 256, dtype=torch.int32))[0, ::32].tolist() == fitted.step.tolist()


def test_another_weight_falls_into_the_nearest_level_of_the_fitted_grid():
    """Q4_0 with max −0.5: d = 0.0625, so the levels are −0.5 … 0.4375; beyond them the outermost."""
    weight = torch.full((1, 32), 0.25)
    weight[0, 0] = -0.5
    packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0)
    fitted = levels(weight, packed, "Q4_0")
    asked = torch.zeros(1, 32)
    asked[0, :5] = torch.tensor([-3.0, 3.0, 0.1, -0.49, 0.03125])
    found = fitted.value(fitted.index(asked))[0, :5]
    assert found.tolist() == [-0.5, 0.4375, 0.125, -0.5, 0.0625]  # a tie goes up
    # the largest magnitude is positive: the same levels mirrored, and the step is negative
    mirrored = levels(-weight, gguf.quants.quantize(-weight.numpy(), gguf.GGMLQuantizationType.Q4_0), "Q4_0")
    assert mirrored.step.tolist() == [-0.0625]
    assert mirrored.value(mirrored.index(-asked))[0, :5].tolist() == [0.5, -0.4375, -0.125, 0.5, -0.0625]
    assert mirrored.width(mirrored.index(asked)).unique().tolist() == [0.0625]


@pytest.mark.parametrize("kind", SMALL)
def test_where_the_fitted_block_has_no_range_each_side_has_a_bucket(kind):
    weight = torch.zeros(1, 32)
    fitted = levels(weight, gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind]), kind)
    moved = weight.clone()
    moved[0, :2] = torch.tensor([1e-8, -1e-8])
    assert (fitted.index(moved) - fitted.index(weight))[0, :3].tolist() == [1, -1, 0]
    assert fitted.value(fitted.index(moved)).abs().sum() == 0
    assert fitted.width(fitted.index(moved)).abs().sum() == 0
