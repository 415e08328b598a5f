"""What formats deliver, against the quantizers themselves and against float64 sums."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from quail_lightning.comparison import ModelWeights, Questions, compare, formats, parameter_roles, total_delivery
from quail_lightning.quantization import BitsAndBytes, Gguf, Uniform, quantized_linears

from .conftest import llama, nudged

QUANTIZERS = {
    "tensor": Uniform(4, "tensor"),
    "global": Uniform(5, "global", grid="minmax-floor"),
    "channel": Uniform(4, "channel"),
    "group": Uniform(4, "group", 64),
    "nf4": BitsAndBytes("nf4"),
    "fp4": BitsAndBytes("fp4"),
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
    return {name: layer.weight.detach().double().numpy() for name, layer in quantized_linears(shown)}


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
