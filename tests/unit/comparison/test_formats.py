"""What formats deliver, against the quantizers themselves and against float64 sums."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from quail_lightning.comparison import ModelWeights, Questions, compare, formats, parameter_roles, total_delivery
from quail_lightning.comparison.formats import piece_length
from quail_lightning.quantization import (
    BitsAndBytes,
    Gguf,
    NarrowFloat,
    Uniform,
    load_quantizer,
    quantized_linears,
)
from quail_lightning.quantization.computing import unpack

from .conftest import llama, nudged

QUANTIZERS = {
    "tensor": Uniform(4, "tensor"),
    "global": Uniform(5, "global", grid="minmax-floor"),
    "channel": Uniform(4, "channel"),
    "group": Uniform(4, "group", 64),
    "nf4": BitsAndBytes("nf4"),
    "fp4": BitsAndBytes("fp4"),
    "nvfp4": NarrowFloat("nvfp4"),
    "mxfp4": NarrowFloat("mxfp4"),
    "fp8": NarrowFloat("fp8"),
}
if all(map(find_spec, ("gguf", "xllamacpp"))):
    # a mixture: of these widths blocks of 32 in two types
    QUANTIZERS |= {"q4_k_m": Gguf("q4_k_m"), "q4_0": Gguf("q4_0")}


@pytest.fixture(scope="module")
def models():
    return llama(1, dtype=torch.float32), nudged(llama(1, dtype=torch.float32), size=1e-3)


@pytest.fixture(scope="module")
def found(models):
    reference, model = models
    questions = Questions((4,), formats=formats(QUANTIZERS))
    return compare(ModelWeights(reference), ModelWeights(model), parameter_roles(reference), questions)


def weights(model, quantizer=None):
    """The quantized weights, dequantized if a quantizer is given."""
    shown = model if quantizer is None else quantizer.quantize(model)
    if isinstance(quantizer, BitsAndBytes):
        import bitsandbytes as bnb

        return {
            name: bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).double().numpy()
            for name, layer in shown.named_modules()
            if isinstance(layer, bnb.nn.Linear4bit)
        }
    if isinstance(quantizer, NarrowFloat) and quantizer.format == "nvfp4":
        return {name: nvfp4(layer) for name, layer in quantized_linears(shown)}
    unpack(shown)
    return {name: layer.weight.detach().double().numpy() for name, layer in quantized_linears(shown)}


def nvfp4(layer):
    """What a packed layer stands for; unpacked, it would be rounded to bfloat16."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    packed, scale = layer.weight_packed, layer.weight_scale.double() / layer.weight_global_scale.double()
    codes = unpack_fp4_from_uint8(packed, len(packed), 2 * packed.shape[1]).double()
    return (codes.unflatten(1, (-1, 16)) * scale.unsqueeze(-1)).flatten(1).detach().numpy()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_delivered_shift_is_that_of_the_quantized_models(found, models, name):
    before, after = (weights(model) for model in models)
    quantized, unlearned = (weights(model, QUANTIZERS[name]) for model in models)
    moved = np.concatenate([(after[n] - before[n]).ravel() for n in before])
    arrived = np.concatenate([(unlearned[n] - quantized[n]).ravel() for n in before])
    total = total_delivery(found.within("quantized"), name)
    assert total.buckets.count == moved.size
    assert total.norm_ratio == pytest.approx(np.linalg.norm(arrived) / np.linalg.norm(moved), rel=1e-4)
    assert total.along == pytest.approx(moved @ arrived / (moved @ moved), rel=1e-3)
    cosine = moved @ arrived / np.linalg.norm(moved) / np.linalg.norm(arrived)
    assert total.cosine == pytest.approx(cosine, rel=1e-3)


@pytest.mark.parametrize("name", ["tensor", "channel", "group"])
def test_overlap_and_signal_to_noise_by_their_formulas(found, models, name):
    quantizer = QUANTIZERS[name]
    tensor = next(t for t in found.tensors if t.name.endswith("down_proj.weight"))
    w, v = (m.model.layers[0].mlp.down_proj.weight.detach().double().numpy() for m in models)
    size = {"tensor": w.size, "channel": w.shape[1], "group": 64}[name]
    step, own_step = (np.abs(x.reshape(-1, size)).max(1, keepdims=True) / 8 for x in (w, v))
    blocks, other = w.reshape(-1, size), v.reshape(-1, size)
    index, moved = np.clip(np.round(blocks / step), -8, 7), other - blocks
    found_here = tensor.deliveries[name]
    assert found_here.buckets.overlap == pytest.approx(
        (index == np.clip(np.round(other / step), -8, 7)).mean(), abs=3e-5
    )
    own = np.clip(np.round(other / own_step), -8, 7)
    assert found_here.buckets.own_grids == pytest.approx((index == own).mean(), abs=3e-5)
    assert found_here.buckets.expected == pytest.approx(1 - np.minimum(1, np.abs(moved) / step).mean(), rel=1e-5)
    noise = np.sqrt(((own * own_step - index * step - moved) ** 2).mean())
    inputs = w.shape[1]
    signal = np.sqrt(inputs) * np.abs(moved).mean()
    assert found_here.signal_to_noise == pytest.approx(signal / noise, rel=1e-3)
    expected = signal / np.sqrt((np.minimum(np.abs(moved), step) * step).mean())
    assert found_here.expected_signal_to_noise == pytest.approx(expected, rel=1e-4)
    assert quantizer.bits == 4


@pytest.mark.parametrize("name", [*QUANTIZERS, "floor", "bf16"])
def test_the_bucket_of_zero_is_the_one_that_a_zero_falls_into(name):
    others = {"floor": Uniform(4, "group", 64, grid="minmax-floor"), "bf16": load_quantizer("bf16")}
    quantizer = (QUANTIZERS | others)[name]
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(4))
    weight[:64] = weight[:64].abs() + 0.1  # no zero within the range
    weight[64:96], weight[96:128], weight[128:160] = 0.0, 0.5, -0.5  # no range
    (used,) = formats({name: quantizer})
    layer = "model.layers.0.mlp.down_proj.weight"
    bounds = weight.min().item(), weight.max().item()
    fitted = used.of_each({layer: (512, 512)})[layer].buckets.fit(weight, 512, bounds, bounds)
    zero = fitted.zero()
    of_zeros = fitted.index(torch.zeros_like(weight)).reshape(len(zero), -1)
    assert torch.equal(of_zeros, zero.unsqueeze(-1).expand_as(of_zeros))


def test_many_small_products_add_up():
    """One after another in float32, 300,000 of them would be 3e-4 too small."""
    changed = torch.full((586, 512), 1e-3)
    weight = torch.linspace(-1, 1, 512).repeat(586, 1)
    (used,) = formats({"tensor": Uniform(4, "tensor")})
    fitted = used.buckets.fit(weight, 512, (-1.0, 1.0), (-1.0, 1.0))
    moved = (weight + changed) - weight
    found = used.deliver(weight, weight + changed, fitted, fitted)
    assert found.intended == pytest.approx(moved.double().square().sum().item(), rel=1e-6)
    assert found.noise == pytest.approx(moved.double().abs().sum().item() / 8, rel=1e-6)


@pytest.mark.parametrize(
    ("size", "pieces"), [(576 * 576, 1), (1536 * 576, 3), (192 * 576, 1), (49152 * 576, 108), (64, 1)]
)
def test_pieces_are_of_one_length(size, pieces):
    (used,) = formats({"nf4": BitsAndBytes("nf4")})
    length = piece_length(2**18, size, 64, [used])
    assert length % 64 == 0
    assert math.ceil(size / length) == pieces
    assert size - (pieces - 1) * length > 0.9 * length


def test_only_quantized_weights_have_deliveries(found):
    assert all(bool(tensor.deliveries) == tensor.quantized for tensor in found.tensors)
    assert {tensor.quantized for tensor in found.tensors} == {True, False}


def test_an_update_larger_than_every_step_arrives_with_little_noise(models):
    reference = models[0]
    far = nudged(llama(1, dtype=torch.float32), size=0.2)
    questions = Questions((4,), formats=formats({"group": Uniform(8, "group", 64)}))
    found = compare(ModelWeights(reference), ModelWeights(far), parameter_roles(reference), questions)
    total = total_delivery(found.within("quantized"), "group")
    assert total.along == pytest.approx(1, abs=0.01)
    assert total.cosine > 0.99
    assert total.signal_to_noise > 100


def test_fused_layers_are_compared_on_the_global_scale_they_share():
    """NVFP4 of a query whose key is eleven times as large: not what the query alone would be rounded to."""
    pair = [llama(1), nudged(llama(1), size=1e-3)]
    with torch.no_grad():
        for model in pair:
            model.model.layers[0].self_attn.k_proj.weight *= 11
    before, after = (weights(model) for model in pair)
    quantized, unlearned = (weights(model, NarrowFloat("nvfp4")) for model in pair)
    name = "model.layers.0.self_attn.q_proj"
    moved, arrived = (after[name] - before[name]).ravel(), (unlearned[name] - quantized[name]).ravel()
    along = moved @ arrived / (moved @ moved)
    used = formats({"nvfp4": NarrowFloat("nvfp4")})
    reference, model = map(ModelWeights, pair)
    found = compare(reference, model, parameter_roles(pair[0]), Questions((4,), formats=used))
    alone = {key: role for key, role in parameter_roles(pair[0]).items() if "k_proj" not in key}
    apart = compare(reference, model, alone, Questions((4,), formats=used))
    shared, own = (
        next(t for t in each.tensors if t.name == f"{name}.weight").deliveries["nvfp4"] for each in (found, apart)
    )
    assert shared.along == pytest.approx(along, rel=1e-6)
    assert own.along != pytest.approx(along, rel=1e-4)
