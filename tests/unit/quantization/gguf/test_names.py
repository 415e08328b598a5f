import pytest
import torch
from architectures import tiny_model

from quail_lightning.errors import InputError
from quail_lightning.quantization.gguf.names import architecture_of, gguf_name, layer_count, permuted


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_names_are_those_of_the_gguf_package(name):
    gguf = pytest.importorskip("gguf")
    model = tiny_model(name)
    known = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture_of(model))
    table = gguf.get_tensor_name_map(known, 2)
    for parameter, _ in model.named_parameters():
        assert gguf_name(parameter) == table.get_name(parameter, try_suffixes=(".weight", ".bias")), parameter
    assert layer_count(filter(None, map(gguf_name, dict(model.named_parameters())))) == 2


@pytest.mark.parametrize("name", ["model.layers.0.mlp.experts.gate_up_proj", "transformer.h.0.attn.c_attn.weight"])
def test_what_llama_lacks_has_no_name(name):
    assert gguf_name(name) is None


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3", "opt", "gpt2", "mixtral"])
def test_other_architectures_are_refused_with_those_that_are_allowed(name):
    with pytest.raises(InputError, match=r"laid out like Llama.*Allowed: llama, mistral, qwen2, qwen3.*Use nf4"):
        architecture_of(tiny_model(name))


def test_permuted_queries_and_keys_turned_in_pairs_give_llama_s_scores():
    """Rotation of neighbouring rows (llama.cpp) against that of rows half a head apart (transformers)."""
    heads, shared, width, inputs = 4, 2, 6, 5
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(heads * width, inputs, generator=draw, dtype=torch.float64)
    key = torch.randn(shared * width, inputs, generator=draw, dtype=torch.float64)
    hidden = torch.randn(inputs, 2, generator=draw, dtype=torch.float64)
    angles = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)

    def turned(vector: torch.Tensor, position: int, neighbours: bool) -> torch.Tensor:
        pairs = vector.reshape(-1, width)
        one, other = (pairs[:, ::2], pairs[:, 1::2]) if neighbours else pairs.chunk(2, dim=1)
        cos, sin = (position * angles).cos(), (position * angles).sin()
        return torch.stack([one * cos - other * sin, other * cos + one * sin], dim=-1).reshape(len(pairs), -1)

    def scores(queries: torch.Tensor, keys: torch.Tensor, neighbours: bool) -> torch.Tensor:
        first = turned(queries @ hidden[:, 0], 7, neighbours)
        second = turned(keys @ hidden[:, 1], 3, neighbours).repeat_interleave(heads // shared, dim=0)
        return (first * second).sum(dim=1)

    names = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
    moved = [permuted(each, name, "llama", heads, shared) for each, name in zip((query, key), names, strict=True)]
    torch.testing.assert_close(scores(*moved, True), scores(query, key, False))
    assert not torch.equal(moved[0], query)
    assert torch.equal(permuted(query, names[0], "qwen2", heads, shared), query)
    assert torch.equal(permuted(query, "blk.0.attn_v.weight", "llama", heads, shared), query)
    bias = torch.arange(heads * width)
    assert permuted(bias, "blk.0.attn_q.bias", "llama", heads, shared)[:6].tolist() == [0, 3, 1, 4, 2, 5]
