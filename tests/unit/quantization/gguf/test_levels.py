"""The levels that an analysis asks for are the copy's, weight by weight."""

import pytest
import torch

from quail_lightning.functional.ggml_blocks import LAYOUTS
from quail_lightning.quantization import quantized_linears
from quail_lightning.quantization.gguf.levels import BlockBuckets, MixtureBuckets
from quail_lightning.quantization.gguf.quantizer import Gguf

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

NOWHERE = (0.0, 0.0)  # ranges of tensor and model, which these levels do not depend on


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("file_type", ["q4_k_m", "q4_0", "q8_0"])
def test_fitted_levels_give_the_copy_exactly(file_type, dtype, wide_model):
    model = wide_model(dtype=dtype)
    weights = {f"{name}.weight": linear.weight.detach() for name, linear in quantized_linears(model)}
    mixture = MixtureBuckets(file_type)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert mixture.misfits(shapes) == []
    copy, found = Gguf(file_type).quantize(model), mixture.of_each(shapes)
    assert {name: buckets.kind for name, buckets in found.items()} == {
        name: kind for name, kind in Gguf(file_type).types(model).items() if name in weights
    }
    for name, weight in weights.items():
        fitted = found[name].fit(weight.float(), weight.shape[1], NOWHERE, NOWHERE)
        assert torch.equal(fitted.value(fitted.index(weight.float())).to(dtype), copy.get_parameter(name)), name


@pytest.mark.parametrize("kind", LAYOUTS)
def test_pieces_of_whole_rows_have_the_levels_of_the_whole(kind):
    weight = 0.1 * torch.randn(6, 512, generator=torch.Generator().manual_seed(4))
    buckets = BlockBuckets(kind)
    whole = buckets.fit(weight, 512, NOWHERE, NOWHERE)
    piece = buckets.fit(weight[2:4].flatten(), buckets.unit(512), NOWHERE, NOWHERE)
    assert torch.equal(piece.index(weight[2:4].flatten()), whole.index(weight)[2:4].flatten())


@pytest.mark.parametrize("kind", LAYOUTS)
def test_another_weight_takes_the_level_nearest_to_it(kind):
    draw = torch.Generator().manual_seed(5)
    weight = 0.1 * torch.randn(4, 512, generator=draw)
    other = weight + 0.003 * torch.randn(4, 512, generator=draw)
    fitted = BlockBuckets(kind).fit(weight, 512, NOWHERE, NOWHERE)
    index = fitted.index(other)
    step = fitted.width(index)
    distance = (fitted.value(index) - other).abs()
    layout = LAYOUTS[kind]
    inside = (index > layout.lowest) & (index < layout.highest)
    # scales in half precision move levels by 2⁻¹¹ of their distance from the centre
    slack = (index - layout.centre).abs() * step * 2**-10
    assert (distance <= step / 2 + slack)[inside].all()
    assert inside.float().mean() > 0.8


def test_weights_without_a_name_or_whole_blocks_are_misfits():
    mixture = MixtureBuckets("q4_k_m")
    assert mixture.misfits({"transformer.h.0.attn.c_attn.weight": (64, 64)}) == [
        "transformer.h.0.attn.c_attn.weight (no tensor of llama.cpp's)"
    ]
    assert mixture.misfits({"model.layers.0.mlp.down_proj.weight": (64, 72)}) == [
        "model.layers.0.mlp.down_proj.weight (72 inputs)"
    ]


def test_grouped_values_of_80_layers_are_told_from_the_shapes():
    def kinds(keys: int) -> set[str]:
        shapes = {}
        for layer in range(80):
            place = f"model.layers.{layer}.self_attn"
            shapes |= {f"{place}.q_proj.weight": (512, 512), f"{place}.k_proj.weight": (keys, 512)}
            shapes[f"{place}.v_proj.weight"] = (keys, 512)
        found = MixtureBuckets("q4_k_m").of_each(shapes)
        return {buckets.kind for name, buckets in found.items() if "v_proj" in name}

    assert kinds(128) == {"Q5_K", "Q6_K"}
    assert kinds(512) == {"Q4_K", "Q6_K"}
