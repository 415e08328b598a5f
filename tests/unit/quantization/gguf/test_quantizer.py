"""What is evaluated is what the file holds."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from quail_lightning.errors import InputError
from quail_lightning.quantization import load_quantizer, remarks
from quail_lightning.quantization.gguf.names import gguf_name, permuted
from quail_lightning.quantization.gguf.quantizer import Gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def read(path) -> dict[str, tuple[str, np.ndarray]]:
    """Name → type and dequantized values of each tensor, by the gguf package."""
    return {
        tensor.name: (tensor.tensor_type.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("file_type", ["q4_k_m", "q4_0", "q8_0"])
def test_the_copy_holds_what_the_file_s_blocks_stand_for(
    config, file_type, wide_model, tokenizers_by_name, tmp_path
):
    model = wide_model(config)
    quantizer = Gguf(file_type)
    quantizer.write_file(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {"made": "here"})
    held = read(tmp_path / "model.gguf")
    copy = dict(quantizer.quantize(model).named_parameters())
    architecture = {LlamaConfig: "llama", Qwen2Config: "qwen2", Qwen3Config: "qwen3"}[config]
    assert held.keys() == {gguf_name(name) for name in copy}
    for name, weight in copy.items():
        known = gguf_name(name)
        expected = permuted(weight.detach(), known, architecture, 4, 2).numpy()
        np.testing.assert_array_equal(held[known][1], expected, err_msg=known)
    counted: dict[str, int] = {}
    for kind, _ in held.values():
        counted[kind] = counted.get(kind, 0) + 1
    assert quantizer.file_tensors(model) == counted
    if file_type == "q4_k_m":
        assert held["blk.2.ffn_down.weight"][0] == held["output.weight"][0] == "Q6_K"
        assert held["blk.0.ffn_down.weight"][0] == held["token_embd.weight"][0] == "Q4_K"


def test_a_bfloat16_copy_holds_the_nearest_values(wide_model):
    model = wide_model(dtype=torch.bfloat16)
    exact, rounded = Gguf("q4_k_m").quantize(model.float()), Gguf("q4_k_m").quantize(model.bfloat16())
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, exact.get_parameter(name).bfloat16()), name


def test_the_file_says_what_it_is_and_where_it_comes_from(wide_model, tokenizers_by_name, tmp_path):
    model, quantizer = wide_model(dtype=torch.bfloat16), Gguf("q4_k_m")
    quantizer.write_file(model, tokenizers_by_name["smollm"], tmp_path / "m.gguf", {"target": "a/b", "größe": 3})
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    field = {name: held.contents() for name, held in reader.fields.items()}
    assert json.loads(field["quail.provenance"]) == {"target": "a/b", "größe": 3}
    assert (field["general.name"], field["general.architecture"]) == ("b", "llama")
    assert (field["general.file_type"], field["general.quantization_version"]) == (15, 2)
    sizes = {"block_count": 3, "context_length": 512, "embedding_length": 256, "feed_forward_length": 512}
    assert {name: field[f"llama.{name}"] for name in sizes} == sizes
    assert (field["llama.attention.head_count"], field["llama.attention.head_count_kv"]) == (4, 2)
    whole = (tmp_path / "m.gguf").stat().st_size
    assert quantizer.file_bytes(model) == sum(tensor.n_bytes for tensor in reader.tensors) < whole


def test_a_tied_head_is_written_once_and_has_the_head_s_type(wide_model, tokenizers_by_name, tmp_path):
    model = wide_model(tie_word_embeddings=True)
    Gguf("q4_0").write_file(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {})
    held = read(tmp_path / "model.gguf")
    assert "output.weight" not in held
    assert held["token_embd.weight"][0] == "Q6_K"


def test_weights_that_layers_share_have_one_type_in_the_file_and_are_those_of_the_copy(
    wide_model, tokenizers_by_name, tmp_path
):
    model, quantizer = wide_model(), Gguf("q4_k_m")
    first, last = model.model.layers[0].mlp, model.model.layers[2].mlp
    last.down_proj.weight = first.down_proj.weight  # alone, llama.cpp would give the last layer's more bits
    quantizer.write_file(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {})
    held, copied = read(tmp_path / "model.gguf"), quantizer.quantize(model)
    for layer in (0, 2):
        kind, values = held[f"blk.{layer}.ffn_down.weight"]
        assert kind == "Q4_K"
        weight = copied.get_parameter(f"model.layers.{layer}.mlp.down_proj.weight").detach()
        np.testing.assert_array_equal(values, weight.numpy())
    assert quantizer.file_tensors(model)["F32"] == 7  # the norms alone


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")]
)
def test_embedding_and_head_can_be_left_as_they_are(dtype, kind, wide_model, tokenizers_by_name, tmp_path):
    model, quantizer = wide_model(dtype=dtype), Gguf("q4_k_m", embeddings=False)
    copy = quantizer.quantize(model)
    quantizer.write_file(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {})
    held = read(tmp_path / "model.gguf")
    for name, known in (("model.embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight")):
        assert name not in quantizer.targets(model)
        assert torch.equal(copy.get_parameter(name), model.get_parameter(name))
        assert held[known][0] == kind
        np.testing.assert_array_equal(held[known][1], model.get_parameter(name).detach().float().numpy())
    assert held["blk.0.attn_q.weight"][0] == "Q4_K"


def test_rows_without_whole_blocks_of_256_are_said(tiny_llama, wide_model):
    model = tiny_llama(width=128)
    said = remarks(model.config, {"q4_k_m": load_quantizer("q4_k_m"), "nf4": load_quantizer("nf4")})
    assert said.startswith("q4_k_m: Q5_0 in place of Q4_K in rows of 128, which 256 does not divide: ")
    assert "Q8_0 in place of Q6_K in rows of 128" in said
    # of width 128, the MLP's second matrices have rows of 256
    assert set(load_quantizer("q4_k_m").types(model).values()) == {"Q5_0", "Q8_0", "Q4_K", "Q6_K"}
    assert remarks(wide_model().config, {"q4_k_m": load_quantizer("q4_k_m")}) == ""


def test_rows_that_no_block_fits_are_refused(wide_model):
    model = wide_model(intermediate_size=520)
    with pytest.raises(InputError, match=r"32 does not divide the rows of .*down_proj.weight \(520\).*Use nf4"):
        Gguf("q4_k_m").targets(model)


def test_weights_that_are_broken_or_too_large_are_refused(wide_model):
    model = wide_model()
    weight = model.model.layers[1].mlp.up_proj.weight.detach()
    weight[3, 4] = 1e8
    with pytest.raises(InputError, match=r"up_proj.weight holds weights of up to 1e\+08, whose scale in Q4_0"):
        Gguf("q4_0").quantize(model)
    weight[3, 4] = torch.nan
    with pytest.raises(InputError, match=r"must be finite.*layers.1.mlp.up_proj"):
        Gguf("q4_0").quantize(model)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"file_type q4_0 needs gguf.*pip install 'quail-lightning\[gguf\]'"):
        Gguf("q4_0")
