import math

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen3Config

from quail_lightning.errors import InputError
from quail_lightning.quantization.gguf.metadata import check_metadata, rotation_divisors

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "rotary positions of type dynamic",
        ),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "the activation gelu"),
        (Qwen3Config(**SIZES, attention_bias=True), "biases of its attention"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(config, told):
    with pytest.raises(
        InputError, match=rf"has {told}.*Allowed: rotary positions of type default, linear, llama3"
    ):
        check_metadata(config)


def test_a_window_that_llama_cpp_does_not_keep_to_is_said():
    assert "this model the last 1024" in check_metadata(MistralConfig(**SIZES, sliding_window=1024))
    assert check_metadata(MistralConfig(**SIZES, sliding_window=None)) == ""
    assert check_metadata(MistralConfig(**SIZES, sliding_window=4096)) == ""


def test_llama_3_s_scaling_divides_low_frequencies():
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    divisors = rotation_divisors(LlamaConfig(**SIZES, rope_parameters=scaling))
    assert divisors.dtype == torch.float32
    found = divisors.tolist()
    assert len(found) == 16
    for number, divisor in enumerate(found):
        length = 2 * math.pi * 10_000 ** (2 * number / 32)  # positions of one turn
        share = min(1.0, max(0.0, (64 / length - 1.0) / (4.0 - 1.0)))
        assert divisor == pytest.approx(1 / ((1 - share) / 8 + share), rel=1e-5)
    assert (found[0], found[-1]) == (1.0, 8.0)
    assert rotation_divisors(LlamaConfig(**SIZES)) is None
