"""Quantized copies made from shards are those of the whole model; here on a mesh of one process."""

from importlib.util import find_spec

import pytest
import torch
from architectures import tiny_model
from torch import distributed

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.sharded import inside, is_sharded, shard, share, whole
from quail_lightning.models.sharded_loading import load_sharded
from quail_lightning.quantization import (
    BitsAndBytes,
    Gguf,
    Gptq,
    NarrowFloat,
    QuantizesShards,
    Uniform,
    Unquantized,
    check_shards,
    computing,
    quantized_copy,
    widest_copy,
)
from quail_lightning.quantization.computing import unpack

PACKED = {
    "nf4": BitsAndBytes("nf4"),
    "nf4, its scales quantized": BitsAndBytes("nf4", double_quantization=True),
    "fp4": BitsAndBytes("fp4"),
    "int8": BitsAndBytes("int8"),
}
SIMULATED = {
    "bf16": Unquantized(),
    "global": Uniform(4, "global"),
    "tensor": Uniform(3, "tensor", grid="minmax-floor"),
    "group": Uniform(4, "group", 64, grid="minmax-round"),
    "mixed": Uniform(4, "channel", layer_bits={"*.down_proj": 8}),
    "nvfp4": NarrowFloat("nvfp4"),
    "mxfp4": NarrowFloat("mxfp4"),
    "fp8": NarrowFloat("fp8"),
}
if all(map(find_spec, ("gguf", "xllamacpp"))):
    SIMULATED["q4_k_m"] = Gguf("q4_k_m")
IDS = torch.tensor([[1, 5, 9, 2, 40, 3]])


@pytest.fixture(scope="module")
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path, tiny_llama):
    tiny_llama(tied=request.param).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def everything(model):
    """Every parameter and buffer, with the scales that bitsandbytes keeps beside a weight."""
    found = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name, weight in list(found.items()):
        if (scales := getattr(weight, "SCB", None)) is not None:
            found[f"{name}.SCB"] = scales
        if (state := getattr(weight, "quant_state", None)) is not None:
            found |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    return found


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_copy_from_shards_is_the_whole_models_bit_for_bit(name, folder, mesh):
    expected = PACKED[name].quantize(load_model(folder, torch.bfloat16))
    found = quantized_copy(PACKED[name], load_sharded(folder, torch.bfloat16, mesh, None))
    assert not is_sharded(found)
    assert not found.training
    tensors = everything(found)
    assert tensors.keys() == everything(expected).keys()
    for key, tensor in everything(expected).items():
        assert type(tensors[key]) is type(tensor), key
        assert tensors[key].dtype == tensor.dtype, key
        assert torch.equal(tensors[key], tensor), key
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == found.config.tie_word_embeddings
    with torch.no_grad():
        assert torch.equal(found(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_copy_stays_sharded_and_is_the_whole_models_bit_for_bit(name, folder, mesh):
    expected = SIMULATED[name].quantize(load_model(folder, torch.bfloat16))
    source = load_sharded(folder, torch.bfloat16, mesh, None)
    before = {key: share(weight).clone() for key, weight in source.named_parameters()}
    found = quantized_copy(SIMULATED[name], source)
    assert is_sharded(found)
    unpack(expected)
    for key, weight in found.named_parameters():
        assert torch.equal(whole(weight), expected.get_parameter(key)), key
        assert torch.equal(share(source.get_parameter(key)), before[key]), key
    with torch.no_grad(), computing(expected):
        assert torch.equal(inside(found, lambda: found(IDS).logits), expected(IDS).logits)


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "qwen3"])
@pytest.mark.parametrize("quantizer", [BitsAndBytes("nf4"), Uniform(4, "group", 64), Uniform(4, "tensor")])
def test_conv1d_and_stacked_experts_are_the_whole_models_too(architecture, quantizer, tmp_path, mesh):
    tiny_model(architecture, torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), torch.bfloat16)
    expected = quantizer.quantize(model)
    source = tiny_model(architecture, torch.bfloat16)
    shard(source, mesh, None)
    found = quantized_copy(quantizer, source)
    for key, weight in expected.named_parameters():
        assert torch.equal(whole(found.get_parameter(key)), weight), key


@pytest.mark.parametrize(
    "quantizer", [BitsAndBytes("nf4"), BitsAndBytes("int8"), Uniform(4), NarrowFloat("nvfp4")]
)
def test_shards_that_are_not_finite_are_refused_by_name(quantizer, tmp_path, tiny_llama, mesh):
    tiny_llama().save_pretrained(tmp_path)
    model = load_sharded(str(tmp_path), torch.bfloat16, mesh, None)
    with torch.no_grad():
        share(model.model.layers[1].mlp.up_proj.weight)[0, 0] = torch.nan
        share(model.model.layers[0].self_attn.q_proj.weight)[2, 1] = torch.inf
    with pytest.raises(
        InputError, match=r"layers\.0\.self_attn\.q_proj\.weight, .*layers\.1\.mlp\.up_proj\.weight"
    ):
        quantized_copy(quantizer, model)


def test_a_whole_model_goes_the_usual_way(tiny_llama):
    copy = quantized_copy(Uniform(4), tiny_llama())
    assert torch.equal(copy.lm_head.weight, tiny_llama().lm_head.weight)
    assert not is_sharded(copy)


def test_precisions_that_need_the_whole_model_are_refused_by_name():
    check_shards(PACKED | SIMULATED, "evaluation.precisions")
    calibrated = {"nf4": BitsAndBytes("nf4"), "gptq4": Gptq()}
    assert not isinstance(calibrated["gptq4"], QuantizesShards)
    with pytest.raises(InputError, match=r"gptq4 need the whole 16-bit model") as refused:
        check_shards(calibrated, "best.precisions")
    assert "best.precisions: nf4, gptq4" in str(refused.value)
    assert "quail evaluate" in str(refused.value)


def test_a_copy_that_is_simulated_or_calibrated_is_as_wide_as_the_model(tiny_llama):
    model = tiny_llama(torch.bfloat16)
    assert widest_copy([Unquantized()], model) == widest_copy([], model) == 0
    assert widest_copy([Unquantized(), BitsAndBytes("nf4")], model) == 4
    assert widest_copy([BitsAndBytes("int8"), BitsAndBytes("nf4")], model) == 8
    assert widest_copy([BitsAndBytes("int8"), Uniform(3)], model) == widest_copy([Gptq()], model) == 16
    assert widest_copy([NarrowFloat("nvfp4")], model) == 16  # unpacked at the first forward pass
    wide = tiny_llama(torch.float32)
    assert widest_copy([Unquantized("float32"), BitsAndBytes("nf4")], wide) == 4
    assert widest_copy([Unquantized("bfloat16")], wide) == 16
    assert widest_copy([Uniform(3)], wide) == 32


def test_what_a_format_leaves_at_16_bits_counts_in_memory():
    model = tiny_model("mixtral").to(torch.bfloat16)  # 11 % of the body are linear layers
    assert widest_copy([BitsAndBytes("nf4")], model) == 15
