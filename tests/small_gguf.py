"""A small random Llama as a GGUF file, written by the package gguf, for tests of what reads such files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, HEAD = 64, 256, 2, 4, 2, 16
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2"]
SPECIAL = ["<|end|>", "<|start|>", "<tool>"]  # control, control, user-defined
TEMPLATE = "{% for message in messages %}<|start|>{{ message['content'] }}{% endfor %}"


def byte_characters() -> list[str]:
    """GPT-2's printable character of each byte: printable ones stand for themselves, the others follow 255."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


TOKENS = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]
KINDS = [1] * (len(TOKENS) - 3) + [3, 3, 4]


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by ggml's name, sizes outermost first."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (WIDTH,),
            "attn_q": (HEADS * HEAD, WIDTH),
            "attn_k": (KEY_HEADS * HEAD, WIDTH),
            "attn_v": (KEY_HEADS * HEAD, WIDTH),
            "attn_output": (WIDTH, HEADS * HEAD),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return found


def numbers() -> dict[str, int | float]:
    """The architecture's own keys."""
    return {
        "block_count": LAYERS,
        "context_length": 128,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD,
        "rope.freq_base": 10000.0,
        "vocab_size": len(TOKENS),
    }


def tokenizer_keys() -> dict[str, Any]:
    """A byte-level tokenizer with six merges."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": TOKENS.index("<|start|>"),
        "tokenizer.ggml.eos_token_id": TOKENS.index("<|end|>"),
        "tokenizer.ggml.padding_token_id": TOKENS.index("<|end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def values(seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights that F16 and BF16 do not hold, norms around 1 that both do."""
    draws = np.random.default_rng(seed)
    return {
        name: (
            (1 + draws.integers(-8, 8, shape) / 64).astype(np.float32)
            if len(shape) == 1
            else draws.normal(0, 0.3, shape).astype(np.float32)
        )
        for name, shape in shapes().items()
    }


def write_llama(
    path: Path,
    type_of: Callable[[str], str] = lambda name: "F32",
    *,
    architecture: str = "llama",
    own: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write the file; name → what the package itself reads from each tensor's bytes.

    Args:
        path: of the file.
        type_of: a matrix's name → ggml's name of its type; norms are F32, as llama.cpp has them.
        architecture: llama.cpp's name of it.
        own: its keys, in the place of ``numbers``; None as a value leaves one out.
        metadata: further keys, likewise.
        weights: name → values, or bytes of a type that the package does not write.
        more: further tensors.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize

    writer = GGUFWriter(path, architecture)
    keys = {f"{architecture}.{key}": value for key, value in (numbers() | dict(own or {})).items()}
    for key, value in (keys | tokenizer_keys() | dict(metadata or {})).items():
        if value is not None:
            add_key(writer, key, value)
    read = {}
    for name, value in (dict(weights or values()) | dict(more or {})).items():
        kind = GGMLQuantizationType[type_of(name) if value.ndim > 1 else "F32"]
        data = value if value.dtype == np.uint8 else quantize(value, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        read[name] = dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def add_key(writer: Any, key: str, value: Any) -> None:
    """Write a key by its value's type."""
    from gguf import GGUFValueType

    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_key_value(key, value, GGUFValueType.STRING)
