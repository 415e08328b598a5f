"""The mixtures, against what llama.cpp's own quantizer (v0.5.0) chose for files of these shapes."""

import pytest

from quail_lightning.quantization.gguf.mixture import fitting_type, is_70b, wanted_types

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def names(layers: int, *outside: str) -> set[str]:
    return {f"blk.{layer}.{matrix}.weight" for layer in range(layers) for matrix in MATRICES} | {*outside}


@pytest.mark.parametrize(
    ("layers", "more"),
    [
        (30, {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29}),  # SmolLM2-135M
        (12, {0, 3, 6, 9, 10, 11}),
        (3, {2}),
        (1, {0}),
    ],
)
def test_q4_k_m_gives_some_layers_values_and_second_matrices_more_bits(layers, more):
    types = wanted_types("q4_k_m", names(layers), layers, grouped_70b=False)
    for matrix in MATRICES:
        wide = {layer for layer in range(layers) if types[f"blk.{layer}.{matrix}.weight"] == "Q6_K"}
        assert wide == (more if matrix in ("attn_v", "ffn_down") else set())
    assert set(types.values()) <= {"Q4_K", "Q6_K"}


def test_the_values_of_a_grouped_model_of_80_layers_never_fall_below_5_bits():
    types = wanted_types("q4_k_m", names(80), 80, grouped_70b=True)
    values = [types[f"blk.{layer}.attn_v.weight"] for layer in range(80)]
    assert {kind: values.count(kind) for kind in set(values)} == {"Q6_K": 40, "Q5_K": 40}
    assert {types[f"blk.{layer}.ffn_down.weight"] for layer in range(80)} == {"Q6_K", "Q4_K"}
    assert set(wanted_types("q4_0", names(80), 80, grouped_70b=True).values()) == {"Q4_0"}


@pytest.mark.parametrize(("file_type", "usual", "head"), [("q4_k_m", "Q4_K", "Q6_K"), ("q4_0", "Q4_0", "Q6_K")])
def test_what_the_head_multiplies_with_has_six_bits(file_type, usual, head):
    tied = wanted_types(file_type, names(1, "token_embd.weight"), 1, False)
    assert tied["token_embd.weight"] == head
    untied = wanted_types(file_type, names(1, "token_embd.weight", "output.weight"), 1, False)
    assert (untied["token_embd.weight"], untied["output.weight"]) == (usual, head)


def test_q8_0_is_q8_0_everywhere():
    assert set(wanted_types("q8_0", names(2, "token_embd.weight", "output.weight"), 2, True).values()) == {"Q8_0"}


@pytest.mark.parametrize(
    ("wanted", "inputs", "taken"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 576, "Q5_0"),
        ("Q5_K", 576, "Q5_1"),
        ("Q6_K", 576, "Q8_0"),
        ("Q4_0", 576, "Q4_0"),
        ("Q8_0", 32, "Q8_0"),
        ("Q6_K", 48, None),
        ("Q4_0", 48, None),
    ],
)
def test_rows_without_whole_blocks_of_256_take_blocks_of_32(wanted, inputs, taken):
    assert fitting_type(wanted, inputs) == taken


@pytest.mark.parametrize(
    ("architecture", "layers", "grouped", "expected"),
    [
        ("llama", 80, True, True),
        ("llama", 80, False, False),
        ("qwen2", 80, False, True),
        ("qwen3", 80, True, False),
        ("llama", 32, True, False),
    ],
)
def test_llama_cpp_tells_70_billion_parameters_by_the_layers(architecture, layers, grouped, expected):
    assert is_70b(architecture, layers, grouped) is expected
