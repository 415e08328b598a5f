"""NVFP4, MXFP4 and FP8: bit for bit what the formats' descriptions give, and what llm-compressor writes."""

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from quail_lightning.errors import InputError
from quail_lightning.quantization import NarrowFloat, quantized_linears
from quail_lightning.quantization.computing import unpack
from quail_lightning.quantization.fused_layers import FUSED, fused_weights

FORMATS = ["nvfp4", "mxfp4", "fp8"]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([(8 * (e > 0) + m) / 8 * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8)])[:-1]
IDS = torch.tensor([[1, 5, 9, 2, 40, 3]])


def llama(dtype=torch.bfloat16, seed=4):
    """Layers of different ranges, so that fused ones would differ by themselves; large weights, rows of zeros."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for number, (_, linear) in enumerate(quantized_linears(model)):
                linear.weight *= 1 + number % 5
                linear.weight[3, 5] *= 30
                linear.weight[7] = 0
            for parameter in model.parameters():  # not its buffers, which loading leaves in float32
                parameter.data = parameter.data.to(dtype)
        return model


def nearest(values, sizes):
    """The level nearest to each value, the even code at a tie, the largest beyond it."""
    size = np.minimum(np.abs(values).astype(np.float64), sizes[-1])
    above = np.searchsorted(sizes, size).clip(1)
    to_lower, to_upper = size - sizes[above - 1], sizes[above] - size
    takes_upper = (to_upper < to_lower) | ((to_upper == to_lower) & (above % 2 == 0))
    return np.copysign(sizes[np.where(takes_upper, above, above - 1)], values)


def bfloat16(values):
    """float32 → the nearest bfloat16, even at a tie, by the bits."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def scales(weight, name, largest):
    """[outputs, blocks] float32: what a code stands for is its product with the scale."""
    block = {"nvfp4": 16, "mxfp4": 32, "fp8": weight.shape[1]}[name]
    peak = np.abs(weight).reshape(len(weight), -1, block).max(-1)
    if name == "fp8":
        return bfloat16(np.where(peak > 0, peak / np.float32(448), np.float32(1)))
    if name == "mxfp4":
        exponents = [math.frexp(each * 8 / 7)[1] - 1 - 2 if each else 0 for each in peak.ravel().tolist()]
        return np.ldexp(np.float32(1), np.array(exponents).reshape(peak.shape)).astype(np.float32)
    shared = np.float32(448 * 6) / np.float32(largest)
    local = nearest(shared * (peak / np.float32(6)), E4M3).astype(np.float32)
    return np.where(local > 0, local, np.float32(0.125)) / shared


def by_description(model, name):
    """The weights of the quantized copy before they are rounded to a dtype, float32."""
    weights = {each: linear.weight.detach().float().numpy() for each, linear in quantized_linears(model)}
    found = {}
    for layer, weight in weights.items():
        owner, _, leaf = layer.rpartition(".")
        fused = next(
            (group for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")) if leaf in group), ()
        )
        siblings = [weights[f"{owner}.{each}"] for each in fused] or [weight]
        scale = scales(weight, name, max(np.abs(each).max() for each in siblings))[..., None]
        blocks = weight.reshape(*scale.shape[:2], -1)
        codes = nearest(blocks / scale, E4M3 if name == "fp8" else E2M1).astype(np.float32)
        found[layer] = (codes * scale).reshape(weight.shape)
    return found


def unpacked(quantized):
    """Its weights, after the first forward pass."""
    with torch.no_grad():
        quantized(IDS)
    return {name: linear.weight.detach() for name, linear in quantized_linears(quantized)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_the_copy_holds_what_the_format_describes_bit_for_bit(name, dtype):
    model = llama(dtype)
    expected = by_description(model, name)
    for layer, weight in unpacked(NarrowFloat(name).quantize(model)).items():
        # codes of 4 bits are unpacked to bfloat16, those of 8 bits to the model's dtype
        in_bfloat16 = name != "fp8" or dtype == torch.bfloat16
        held = torch.from_numpy(bfloat16(expected[layer]) if in_bfloat16 else expected[layer]).to(dtype)
        assert weight.dtype == dtype
        assert torch.equal(weight, held), layer


@pytest.mark.parametrize("name", FORMATS)
def test_codes_and_scales_are_those_of_llm_compressor(name, tmp_path):
    """Its own modifier on the float32 model; FP8's scales, which it leaves in float32, but for their rounding."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model, theirs = llama(torch.float32), llama(torch.float32)
    model.config.save_pretrained(tmp_path)
    theirs.config._name_or_path = str(tmp_path)
    scheme = {"nvfp4": "NVFP4A16", "mxfp4": "MXFP4A16", "fp8": "FP8_DYNAMIC"}[name]
    recipe = QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])
    oneshot(model=theirs, recipe=recipe, processor=object())
    theirs.save_pretrained(tmp_path / "theirs")
    NarrowFloat(name).quantize(model).save_pretrained(tmp_path / "ours")
    found, expected = (load_file(tmp_path / each / "model.safetensors") for each in ("ours", "theirs"))
    assert {key: tensor.dtype for key, tensor in found.items()} == {
        k: tensor.dtype for k, tensor in expected.items()
    }
    for key, tensor in expected.items():
        if name == "fp8" and key.endswith("weight_scale"):
            tensor = tensor.bfloat16().float()
        elif name == "fp8" and "_proj" in key:
            continue  # codes of the rounded scale: the test above
        assert torch.equal(found[key].view(torch.uint8), tensor.view(torch.uint8)), key
    ours, other = (json.loads((tmp_path / each / "config.json").read_text()) for each in ("ours", "theirs"))
    group, scheme = (each["quantization_config"]["config_groups"]["group_0"] for each in (ours, other))
    assert group.pop("targets") == [each for each, _ in quantized_linears(model)]
    assert scheme.pop("targets") == ["Linear"]
    for each in (group, scheme):
        each["weights"].pop("observer")
    assert group == scheme
    for key in ("format", "quantization_status", "ignore", "quant_method"):
        assert ours["quantization_config"][key] == other["quantization_config"][key], key


def test_layers_that_vllm_fuses_have_one_global_scale_and_the_table_is_llm_compressors():
    from llmcompressor.observers.helpers import FUSED_LAYER_NAMES

    assert list(FUSED) == FUSED_LAYER_NAMES
    packed = NarrowFloat("nvfp4").quantize(llama())
    layer = packed.model.layers[0]
    q, k, v, o = (getattr(layer.self_attn, f"{each}_proj").weight_global_scale.item() for each in "qkvo")
    gate, up, down = (
        getattr(layer.mlp, f"{each}_proj").weight_global_scale.item() for each in ("gate", "up", "down")
    )
    assert q == k == v
    assert gate == up
    assert len({q, o, gate, down}) == 4


def test_only_a_whole_group_within_one_module_is_fused():
    names = ["a.q_proj.weight", "a.k_proj.weight", "b.v_proj.weight", "b.gate_proj.weight", "b.up_proj.weight"]
    assert fused_weights(names) == [("b.gate_proj.weight", "b.up_proj.weight")]


@pytest.mark.parametrize("name", FORMATS)
def test_buckets_are_those_of_the_copy(name):
    model, quantizer = llama(), NarrowFloat(name)
    weights = {f"{each}.weight": linear.weight.detach().float() for each, linear in quantized_linears(model)}
    bounds = {each: (weight.min().item(), weight.max().item()) for each, weight in weights.items()}
    for group in quantizer.buckets().together(weights):
        joined = min(bounds[each][0] for each in group), max(bounds[each][1] for each in group)
        bounds |= dict.fromkeys(group, joined)
    for layer, weight in unpacked(quantizer.quantize(model)).items():
        original = weights[f"{layer}.weight"]
        fitted = quantizer.buckets().fit(original, original.shape[1], bounds[f"{layer}.weight"], (0.0, 0.0))
        assert torch.equal(fitted.value(fitted.index(original)).bfloat16(), weight), layer


@pytest.mark.parametrize("name", FORMATS)
def test_the_reloaded_export_has_the_copy_s_weights_and_logits(name, tmp_path):
    quantized = NarrowFloat(name).quantize(llama())
    quantized.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(IDS).logits, quantized(IDS).logits)
    expected = unpacked(quantized)
    assert all(torch.equal(weight, expected[layer]) for layer, weight in unpacked(reloaded).items())
    format = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["format"]
    assert (
        format
        == {
            "nvfp4": "nvfp4-pack-quantized",
            "mxfp4": "mxfp4-pack-quantized",
            "fp8": "float-quantized",
        }[name]
    )


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4"])
def test_the_export_of_a_wider_model_loads_in_bfloat16(name, tmp_path):
    quantized = NarrowFloat(name).quantize(llama(torch.float32))
    quantized.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    expected = unpacked(quantized)
    assert all(torch.equal(weight.float(), expected[layer]) for layer, weight in unpacked(reloaded).items())


def test_fp8_rounds_activations_with_a_scale_a_token_and_the_4_bit_formats_do_not():
    hidden = (
        torch.randn(1, 3, 128, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 9, 0.1])[:, None]
    )
    for name in FORMATS:
        quantized = NarrowFloat(name).quantize(llama(torch.float32))
        layer = dict(quantized_linears(quantized))["model.layers.1.mlp.up_proj"] if unpacked(quantized) else None
        seen = hidden.numpy()
        if name == "fp8":
            scale = np.abs(seen).max(-1, keepdims=True) / np.float32(448)
            seen = nearest(seen / scale, E4M3).astype(np.float32) * scale
        expected = seen.astype(np.float64) @ layer.weight.detach().double().numpy().T
        with torch.no_grad():
            np.testing.assert_allclose(layer(hidden).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_inputs_that_are_no_whole_blocks_are_refused_with_what_takes_them():
    config = LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=72, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    with pytest.raises(InputError, match=r"down_proj \(72\); got 16\. nvfp4 knows no other blocks\. Use fp8"):
        NarrowFloat("nvfp4").quantize(model)
    with pytest.raises(InputError, match=r"q_proj \(48\).*got 32\. mxfp4"):
        NarrowFloat("mxfp4").targets(model)
    assert NarrowFloat("fp8").quantize(model).dtype == torch.float32


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_are_not_finite_are_refused_by_name(name):
    model = llama()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"infinity in model\.layers\.1\.mlp\.up_proj\.weight"):
        NarrowFloat(name).quantize(model)


def test_a_copy_is_as_wide_as_the_model_once_it_is_unpacked():
    model = llama()
    quantized = NarrowFloat("nvfp4").quantize(model)
    unpack(quantized)
    assert {linear.weight.dtype for _, linear in quantized_linears(quantized)} == {model.dtype}


def test_nothing_is_printed(capfd):
    unpacked(NarrowFloat("fp8").quantize(llama()))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"'nvfp4' needs compressed_tensors, not installed.*pip install 'llmcomp"):
        NarrowFloat("nvfp4")
