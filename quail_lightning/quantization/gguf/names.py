"""What llama.cpp calls the architectures and weights of the models that it lays out as Llama."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Type of the model in its config → architecture in a GGUF file."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_WITHIN = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r"(?:model\.)?(?:layers\.(\d+)\.)?([\w.]+)\.(weight|bias)")


def gguf_name(name: str) -> str | None:
    """``model.layers.3.self_attn.v_proj.weight`` → ``blk.3.attn_v.weight``; None for what has no name there."""
    if not (found := _NAME.fullmatch(name)):
        return None
    layer, module, leaf = found.groups()
    known = (_OUTSIDE if layer is None else _WITHIN).get(module)
    if known is None:
        return None
    return f"{known}.{leaf}" if layer is None else f"blk.{layer}.{known}.{leaf}"


def architecture_of(model: PreTrainedModel) -> str:
    """llama.cpp's name for a model's architecture; the model may be on the meta device.

    Raises:
        InputError: it is laid out in another way than Llama, or has weights that Llama lacks.
    """
    kind = model.config.model_type
    strange = [name for name, _ in model.named_parameters() if gguf_name(name) is None]
    if kind not in ARCHITECTURES or strange:
        raise InputError(
            f"GGUF files are written of models laid out like Llama, and {type(model).__name__} "
            + (f"has {strange[0]}" if kind in ARCHITECTURES else "is not one that is known to be"),
            given=kind,
            allowed=", ".join(ARCHITECTURES),
            remedy="Use nf4 or a uniform grid (uniform4-group64), or convert and quantize the 16-bit checkpoint "
            "(`quail quantize --to bf16`) with llama.cpp's own programs",
        )
    return ARCHITECTURES[kind]


def layer_count(names: Iterable[str]) -> int:
    """Of the model whose tensors GGUF calls so."""
    return 1 + max((int(name.split(".")[1]) for name in names if name.startswith("blk.")), default=-1)


def permuted(weight: Tensor, name: str, architecture: str, heads: int, shared_heads: int) -> Tensor:
    """A query or key matrix, or its bias, with its rows in llama.cpp's order; anything else as it is.

    For ``llama`` it turns neighbouring rows of a head together, where transformers turns those that lie half a
    head apart: row j of a head's first half goes to 2j, of its second to 2j + 1. Rows are quantized one by one, so
    the order changes none.

    Args:
        weight: [outputs, ...].
        name: that GGUF gives it.
        architecture: likewise.
        heads: of the queries.
        shared_heads: of the keys.
    """
    matrix = name.split(".")[-2]
    if architecture != "llama" or matrix not in ("attn_q", "attn_k"):
        return weight
    count = heads if matrix == "attn_q" else shared_heads
    halves = weight.reshape(count, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
