"""A model's config as GGUF files hold it, where llama.cpp computes the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quail_lightning.errors import InputError

ROTATIONS = ("default", "linear", "llama3")


def check_metadata(config: Any) -> str:
    """Refuse what llama.cpp computes otherwise; a note on what differs for long texts alone, or nothing.

    Raises:
        InputError: rotary positions, an activation or biases that it does not have for this architecture.
    """
    rotation, activation = config.rope_parameters, config.hidden_act
    problems = {
        f"rotary positions of type {rotation['rope_type']}": rotation["rope_type"] not in ROTATIONS,
        "heads that are turned in part": rotation.get("partial_rotary_factor", 1.0) != 1.0,
        f"the activation {activation}": activation != "silu",
        "biases of its attention": config.model_type == "qwen3" and getattr(config, "attention_bias", False),
    }
    if found := [what for what, is_there in problems.items() if is_there]:
        raise InputError(
            f"a GGUF file of this model is not written here: it has {' and '.join(found)}",
            allowed=f"rotary positions of type {', '.join(ROTATIONS)}, and silu",
            remedy="Convert and quantize the 16-bit checkpoint (`quail quantize --to bf16`) with llama.cpp's own "
            "programs",
        )
    window = getattr(config, "sliding_window", None)
    if window is None or window >= config.max_position_embeddings:
        return ""
    return f"llama.cpp lets every token see all before it, and this model the last {window}: keep texts shorter"


def add_metadata(writer: Any, config: Any) -> None:
    """Hand a config's sizes to a ``gguf.GGUFWriter``."""
    from gguf import RopeScalingType

    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    width = head_width(config)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    rotation = config.rope_parameters
    writer.add_rope_freq_base(rotation["rope_theta"])
    if rotation["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotation["factor"])
    else:
        writer.add_rope_scaling_type(RopeScalingType.NONE)


def rotation_divisors(config: Any) -> Tensor | None:
    """[head width / 2] by which llama.cpp divides each frequency, float32; None where all are 1.

    Llama 3.1's scaling (``rope_type: llama3``): low frequencies are divided by a factor, high ones are kept.
    """
    if config.rope_parameters["rope_type"] != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = head_width(config)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    return (plain / scaled).float()


def head_width(config: Any) -> int:
    """Of one head of the attention."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
