"""llm-compressor's methods: what they do to weights, and that they leave no trace."""

import importlib.util
import os

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.quantization import Awq, Gptq, SmoothQuant, quantized_linears

CALIBRATION = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(1))
METHODS = [Awq, Gptq, SmoothQuant]


def unpacked(quantized):
    with torch.no_grad():
        quantized(CALIBRATION[:1])
    return quantized


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(method, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs llmcompressor, not installed.*pip install 'llmcompressor>="):
        method()


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_are_refused_before_calibration(tiny_llama, method) -> None:
    model = tiny_llama(width=128)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"infinity in model\.layers\.1\.mlp\.up_proj\.weight"):
        method().quantize(model, CALIBRATION)


def test_a_group_size_that_does_not_divide_is_refused_before_calibration(tiny_llama) -> None:
    with pytest.raises(InputError, match=r"q_proj \(64\)"):
        Gptq(group_size=128).quantize(tiny_llama(), CALIBRATION)


def test_options_out_of_their_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"smoothing_strength must lie in \[0, 1\]; got 1.5"):
        SmoothQuant(1.5)
    with pytest.raises(InputError, match=r"dampening must lie in \(0, 1\); got 0"):
        Gptq(dampening=0)


def test_symmetric_gptq_weights_lie_on_sixteen_levels_around_zero(tiny_llama) -> None:
    model = tiny_llama()
    quantized = unpacked(Gptq(group_size=64).quantize(model, CALIBRATION))
    for name, _ in quantized_linears(model):
        layer = quantized.get_submodule(name)
        groups = layer.weight.detach().double().unflatten(1, (-1, 64))
        levels = groups / layer.weight_scale.detach().double().unsqueeze(-1)
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
        assert levels.round().min() >= -8
        assert levels.round().max() <= 7


def test_gptq_disturbs_a_layer_s_output_less_than_rounding_to_nearest_on_its_own_grid(tiny_llama) -> None:
    model = tiny_llama()
    quantized = unpacked(Gptq(group_size=64).quantize(model, CALIBRATION))
    # The first layers see the same input in both models.
    with torch.no_grad():
        seen = model.model.layers[0].input_layernorm(model.model.embed_tokens(CALIBRATION)).flatten(0, 1).double()
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(model.model.layers[0].self_attn, name).weight.detach().double()
        layer = getattr(quantized.model.layers[0].self_attn, name)
        scale = layer.weight_scale.detach().double()
        nearest = (weight / scale).round().clamp(-8, 7) * scale
        gptq = (seen @ (layer.weight.detach().double() - weight).T).norm()
        assert gptq < 0.9 * (seen @ (nearest - weight).T).norm()


def test_awq_protects_the_channels_that_carry_large_activations(tiny_llama) -> None:
    model = tiny_llama()
    norm = model.model.layers[0].input_layernorm
    norm.weight.data[:2] = 30.0
    quantized = unpacked(Awq(group_size=64).quantize(model, CALIBRATION))
    factor = norm.weight.detach() / quantized.model.layers[0].input_layernorm.weight.detach()
    assert factor[:2].min() > 2 * factor[2:].max()
    # What left the norm entered the weights: the product is the original's, but for rounding.
    before = model.model.layers[0].self_attn.q_proj.weight.detach() * norm.weight.detach()
    after = quantized.model.layers[0].self_attn.q_proj.weight.detach() * (norm.weight.detach() / factor)
    important = (after - before)[:, :2].norm() / before[:, :2].norm()
    assert important < 0.05


def test_smoothquant_without_strength_moves_no_factor_and_with_it_eases_the_activations(tiny_llama) -> None:
    model = tiny_llama()
    norm = model.model.layers[0].input_layernorm
    norm.weight.data[:2] = 30.0
    eased = SmoothQuant(0.8).quantize(model, CALIBRATION).model.layers[0].input_layernorm.weight
    assert eased[:2].min() < 10 < 30
    # α = 0: Eq. 4 divides by 1 / max|w| of the channel and does not know the activations; llm-compressor takes
    # ranges, 2·max|w|, for magnitudes
    plain = SmoothQuant(0.0).quantize(model, CALIBRATION).model.layers[0].input_layernorm.weight
    attention = model.model.layers[0].self_attn
    largest = torch.stack([p.weight.detach().abs().amax(0) for p in (attention.q_proj, attention.k_proj)])
    largest = torch.maximum(largest.amax(0), attention.v_proj.weight.detach().abs().amax(0))
    torch.testing.assert_close(plain.detach(), norm.weight.detach() * 2 * largest, rtol=1e-4, atol=1e-5)


def test_smoothquant_rounds_activations_to_256_levels_a_token(tiny_llama) -> None:
    quantized = unpacked(SmoothQuant().quantize(tiny_llama(), CALIBRATION))
    layer = quantized.model.layers[0].mlp.up_proj
    activations = layer.quantization_scheme.input_activations
    assert (activations.num_bits, activations.dynamic, activations.strategy) == (8, True, "token")
    hidden = torch.randn(1, 3, 64)
    with torch.no_grad():
        seen = layer(hidden)
        scale = hidden.abs().amax(-1, keepdim=True) * 2 / 255
        rounded = (hidden / scale).round().clamp(-128, 127) * scale
        torch.testing.assert_close(seen, rounded @ layer.weight.T, rtol=1e-3, atol=1e-4)


def test_mixed_precision_packs_each_layer_with_its_own_bits(tiny_llama) -> None:
    model = tiny_llama()
    quantized = Gptq(group_size=64, layer_bits={"*.down_proj": 8}).quantize(model, CALIBRATION)
    for name, linear in quantized_linears(model):
        per_word = 4 if name.endswith("down_proj") else 8  # weights in an int32
        packed = quantized.get_submodule(name).weight_packed
        assert packed.numel() * per_word == linear.weight.numel(), name


def test_environment_and_session_are_left_as_they_were(tiny_llama, monkeypatch) -> None:
    from llmcompressor.core import active_session

    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    Gptq(group_size=64).quantize(tiny_llama(), CALIBRATION)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert active_session().state.model is None


def test_nothing_is_printed(tiny_llama, capfd) -> None:
    unpacked(Awq(group_size=64).quantize(tiny_llama(), CALIBRATION))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the fault shows only where no accelerator is")
def test_the_pin_memory_workaround_is_still_needed() -> None:
    """When this fails, llm-compressor checks for an accelerator itself: drop _no_pinning_without_accelerator."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    cache = IntermediatesCache.empty(1, torch.device("cpu"))
    cache.update(0, {"hidden": torch.zeros(2)})
    with pytest.raises(RuntimeError):
        cache.pin_memory(0)
