"""Rounding a model's weights against the formats' own quantized copies, and what it leaves as it was."""

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.quantization import load_quantizer
from quail_lightning.quantization.body_weights import body_weights
from quail_lightning.quantization.rounded_weights import WeightLevels, replace_by_rounded, rounded_weights

FORMATS = [
    "nf4",
    "fp4",
    "fp8",
    "nvfp4",
    "mxfp4",
    "uniform4-group64",
    "uniform4-channel",
    "uniform4-tensor",
    "q4_0",
    "q8_0",
]


@pytest.fixture(scope="module")
def model():
    """Two layers of width 64, whose weights span several orders of magnitude."""
    made = tiny_llama(vocab_size=96, width=64, layers=2, heads=4, positions=32, seed=3)
    with torch.no_grad():
        for number, each in enumerate(body_weights(made)):
            each.parameter.mul_(1 + 3 * torch.rand(each.parameter.shape[1]).square()).mul_(1 + number)
    return made


def dequantized(name, model):
    """The body's weights of the quantizer's own copy, by what its layers multiply unit vectors to."""
    copy = load_quantizer(name).quantize(model)
    found = {}
    with torch.no_grad():
        copy(input_ids=torch.zeros(1, 2, dtype=torch.long))  # some are packed until their first pass
        for each in body_weights(model):
            layer = copy.get_submodule(each.name.removesuffix(".weight"))
            found[each.name] = layer(torch.eye(each.inputs)).T.float()
    return found


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "fp8"])  # fp8 rounds its inputs as well
def test_the_weights_are_those_of_the_quantized_copy(name, model):
    copy = dequantized(name, model)
    for weight, rounded in WeightLevels.of(name, model).rounded(model):
        # unpacked to bfloat16 by compressed-tensors, and products of bitsandbytes are rounded
        close = 2**-8 if name in ("nvfp4", "mxfp4") else 2e-6
        assert (rounded - copy[weight]).norm() <= close * copy[weight].norm(), weight


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_moves_every_weight_matrix_and_twice_is_once(name, model):
    levels = WeightLevels.of(name, model)
    before = {each.name: each.parameter.detach().clone() for each in body_weights(model)}
    with rounded_weights(model, levels):
        once = {each.name: each.parameter.detach().clone() for each in body_weights(model)}
        assert all(not torch.equal(once[weight], before[weight]) for weight in before)
        assert once.keys() == levels.buckets.keys()
    for each in body_weights(model):
        assert torch.equal(each.parameter, before[each.name]), each.name


def test_the_model_is_what_it_was_after_an_error(model):
    before = [each.parameter.detach().clone() for each in body_weights(model)]
    with pytest.raises(ValueError, match="inside"), rounded_weights(model, WeightLevels.of("nf4", model)):
        raise ValueError("inside")
    assert all(torch.equal(each.parameter, old) for each, old in zip(body_weights(model), before, strict=True))


def gpt2(width):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=width, n_layer=1, n_head=4, n_positions=32))


def test_layers_that_lie_transposed_are_rounded_along_their_inputs():
    model = gpt2(64)
    before = {each.name: each.parameter.detach().T.double() for each in body_weights(model)}
    replace_by_rounded(model, WeightLevels.of("uniform4-channel", model))
    for each in body_weights(model):
        assert each.layout == "conv1d"
        rows, rounded = before[each.name], each.parameter.detach().T.double()
        step = rows.abs().amax(1, keepdim=True) / 8  # symmetric, 4 bits
        levels = rounded / step
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert ((rounded - rows).abs() <= step / 2 * 1.0001).logical_or(rows > 7.5 * step).all()


@pytest.mark.parametrize("name", ["awq4", "int8", "uniform-mixed"])
def test_formats_that_look_at_more_than_the_weights_are_refused(name, model):
    with pytest.raises(InputError, match="weights alone"):
        WeightLevels.of(name, model)


def test_a_group_that_does_not_divide_the_inputs_is_refused():
    odd = gpt2(48)
    with pytest.raises(InputError):
        WeightLevels.of("uniform4-group64", odd)
