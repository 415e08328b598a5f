import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.quantization import Uniform, quantized_linears


def body(model) -> dict[str, np.ndarray]:
    return {name: linear.weight.detach().double().numpy() for name, linear in quantized_linears(model)}


def test_global_uses_one_range_over_all_quantized_weights(tiny_llama) -> None:
    model = tiny_llama(torch.float64)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5, 6] = 0.9
        model.model.embed_tokens.weight[0, 0] = 50.0  # not quantized, so it must not widen the range
        model.lm_head.weight[0, 0] = -50.0
    weights = body(model)
    low, high = min(w.min() for w in weights.values()), max(w.max() for w in weights.values())
    step = (high - low) / 16
    quantized = body(Uniform(4, "global", grid="minmax-floor").quantize(model))
    for name, weight in weights.items():
        index = np.clip(np.floor((weight - low) / step), 0, 15)
        np.testing.assert_allclose(quantized[name], (index + 0.5) * step + low, rtol=0, atol=1e-14)


def test_group_scales_follow_the_inputs_of_a_row(tiny_llama) -> None:
    model = tiny_llama(torch.float64)
    quantized = body(Uniform(4, "group", group_size=32).quantize(model))
    for name, weight in body(model).items():
        blocks = weight.reshape(weight.shape[0], -1, 32)
        step = np.abs(blocks).max(axis=-1, keepdims=True) / 8
        expected = np.clip(np.round(blocks / step), -8, 7) * step
        np.testing.assert_allclose(quantized[name], expected.reshape(weight.shape), rtol=0, atol=1e-14)


def test_finer_granularity_and_more_bits_lie_nearer(tiny_llama) -> None:
    model = tiny_llama()
    before = body(model)

    def error(quantizer: Uniform) -> float:
        after = body(quantizer.quantize(model))
        return sum(float(((after[name] - weight) ** 2).sum()) for name, weight in before.items())

    by_granularity = [
        *(Uniform(4, granularity) for granularity in ("global", "tensor", "channel")),
        Uniform(4, "group", group_size=16),
    ]
    errors = [error(quantizer) for quantizer in by_granularity]
    assert errors == sorted(errors, reverse=True)
    assert error(Uniform(8)) < error(Uniform(4)) / 50


def test_a_weight_shared_by_two_layers_is_rounded_once(tiny_llama) -> None:
    model = tiny_llama()
    first, second = (layer.mlp.up_proj for layer in model.model.layers)
    second.weight = first.weight
    quantized = Uniform(3, grid="minmax-floor").quantize(model)
    weight = first.weight.detach().double().numpy()
    step = (weight.max() - weight.min()) / 8
    expected = (np.clip(np.floor((weight - weight.min()) / step), 0, 7) + 0.5) * step + weight.min()
    np.testing.assert_allclose(body(quantized)["model.layers.1.mlp.up_proj"], expected, rtol=0, atol=1e-6)


def test_biases_stay_in_full_precision(tiny_llama) -> None:
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj.bias = torch.nn.Parameter(torch.linspace(-1, 1, 128))
    quantized = Uniform(2).quantize(model)
    assert torch.equal(quantized.model.layers[0].mlp.up_proj.bias, torch.linspace(-1, 1, 128))


def test_nan_is_refused_with_the_weight_s_name(tiny_llama) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight"):
        Uniform(4).quantize(model)


def test_layers_that_do_not_divide_into_groups_are_named_with_their_sizes(tiny_llama) -> None:
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj \(64\).*got 128"):
        Uniform(4, "group", group_size=128).quantize(tiny_llama())


@pytest.mark.parametrize("bits", [1, 9, 16, 0, -4])
def test_bits_outside_2_to_8_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match=f"bits must lie in 2 … 8; got {bits}"):
        Uniform(bits)


@pytest.mark.parametrize("options", [{"granularity": "group"}, {"granularity": "group", "group_size": 0}])
def test_groups_without_a_size_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match="needs a group_size"):
        Uniform(4, **options)


@pytest.mark.parametrize("granularity", ["global", "tensor", "channel"])
def test_a_group_size_without_groups_is_refused(granularity: str) -> None:
    with pytest.raises(InputError, match="of no use"):
        Uniform(4, granularity, group_size=64)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_of_a_pattern_outside_2_to_8_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match=f"bits must lie in 2 … 8; got {bits}"):
        Uniform(4, layer_bits={"*.down_proj": bits})


def test_layers_that_a_pattern_names_have_its_bits_and_the_others_the_common_ones(tiny_llama) -> None:
    model = tiny_llama(torch.float64)
    quantized = body(Uniform(2, layer_bits={"*.down_proj": 6, "model.layers.1.*": 3}).quantize(model))
    for name, weight in body(model).items():
        bits = 6 if name.endswith("down_proj") else 3 if ".1." in name else 2
        step = np.abs(weight).max() / 2 ** (bits - 1)
        expected = np.clip(np.round(weight / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
        np.testing.assert_allclose(quantized[name], expected, rtol=0, atol=1e-14, err_msg=name)


def test_a_pattern_without_a_layer_is_refused(tiny_llama) -> None:
    with pytest.raises(InputError, match="no quantized layer is named like"):
        Uniform(4, layer_bits={"lm_head": 8}).quantize(tiny_llama())
