"""What the body is, in architectures that do not keep it in linear layers of one language model."""

import pytest
import torch
from architectures import CONFIGS, tiny_model

from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import fit_grid
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization import BitsAndBytes, Uniform, partly_quantized, quantized_linears
from quail_lightning.quantization.body_weights import body_weights, linear_names, matrices, quantized_share


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_alone_gives_the_same_body(name):
    model = tiny_model(name)
    empty = empty_model(model.config, torch.float32)
    assert [each._replace(parameter=None) for each in body_weights(empty)] == [
        each._replace(parameter=None) for each in body_weights(model)
    ]
    for quantizer in (BitsAndBytes("nf4"), Uniform(4)):
        assert quantizer.targets(empty) == quantizer.targets(model)


def test_the_towers_of_a_multimodal_model_are_no_part_of_it():
    model = tiny_model("gemma3")
    assert any("vision_tower" in name for name, _ in model.named_parameters())
    names = [each.name for each in body_weights(model)] + [name for name, _ in quantized_linears(model)]
    assert len(names) == 2 * 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in names)


def test_matrices_are_views_of_outputs_by_inputs():
    linear, stacked = torch.zeros(3, 5), torch.zeros(2, 5, 3)
    (of_conv1d,) = matrices(linear, "conv1d")
    assert of_conv1d.shape == (5, 3)
    first, second = matrices(stacked, "transposed experts")
    second[1, 4] = 7
    assert (first.shape, float(stacked[1, 4, 1]), float(stacked.sum())) == ((3, 5), 7, 7)
    assert [each.shape for each in matrices(stacked, "experts")] == [(5, 3), (5, 3)]


def test_every_expert_is_rounded_on_grids_of_its_own():
    model = tiny_model("mixtral")
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[1] *= 100  # which must not widen its neighbours' steps
    before = {each.name: each.parameter.detach().clone() for each in body_weights(model)}
    for granularity, size in (("tensor", None), ("channel", None), ("group", 64)):
        quantized = Uniform(4, granularity, size).quantize(model)
        for kind in ("gate_up_proj", "down_proj"):
            name = f"model.layers.0.mlp.experts.{kind}"
            found = quantized.get_parameter(name)
            for expert, weight in enumerate(before[name]):
                grid = fit_grid(weight, bits=4, kind="symmetric", granularity=granularity, group_size=size)
                assert torch.equal(found[expert], grid.round(weight))
        router = "model.layers.0.mlp.gate.weight"
        assert torch.equal(quantized.get_parameter(router), before[router])


def test_conv1d_is_rounded_along_its_inputs():
    model = tiny_model("gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight.detach()  # [inputs, outputs]
    found = Uniform(4, "channel").quantize(model).transformer.h[0].mlp.c_fc.weight
    step = weight.abs().amax(0, keepdim=True) / 8
    torch.testing.assert_close(found, (weight / step).round().clamp(-8, 7) * step)


def test_bits_of_layers_reach_experts_by_name():
    model = tiny_model("mixtral")
    name = "model.layers.1.mlp.experts.down_proj"
    mixed = Uniform(2, "channel", layer_bits={"*.experts.down_proj": 8}).quantize(model).get_parameter(name)
    assert torch.equal(mixed, Uniform(8, "channel").quantize(model).get_parameter(name))


def test_the_share_counts_experts_and_routers():
    # Mixtral, a layer: q and o 128², k and v 128·64, 4 experts of 3 · 128·256, a router of 4 · 128
    linear, experts, router = 2 * 128**2 + 2 * 128 * 64, 4 * 3 * 128 * 256, 4 * 128
    model = tiny_model("mixtral")
    whole = linear + experts + router
    assert quantized_share(model, BitsAndBytes("nf4").targets(model)) == pytest.approx(linear / whole)
    assert quantized_share(model, Uniform(4).targets(model)) == pytest.approx((linear + experts) / whole)
    assert quantized_share(model, []) == 0


def test_what_stays_at_16_bits_is_said_of_the_precisions_concerned():
    assert partly_quantized({"bf16": 0.0, "gptq4": 1.0, "uniform4": 0.999}) == ""
    told = partly_quantized({"bf16": 0.0, "nf4": 0.111, "int8": 0.5})
    assert told.startswith("nf4 quantizes 11 % of the body's weights; int8 quantizes 50 % of the body's weights:")


@pytest.mark.parametrize("kind", ["Llama4Text", "Dbrx", "GptOss", "Qwen2Moe"])
def test_experts_of_any_kind_are_refused_where_a_method_takes_linear_layers_alone(kind):
    import transformers

    sizes = {"vocab_size": 64, "num_hidden_layers": 2, "n_layers": 2, "hidden_size": 64, "d_model": 64}
    if kind == "Dbrx":
        sizes |= {"n_heads": 4, "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0}}
    model = empty_model(getattr(transformers, f"{kind}Config")(**sizes), torch.bfloat16)
    with pytest.raises(InputError, match=r"GPTQ quantizes linear layers, and .* stacked experts"):
        linear_names(model, "GPTQ")
