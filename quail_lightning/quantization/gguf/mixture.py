"""Which tensor of a GGUF file is quantized to which block type: llama.cpp's rules for three of its file types.

``q4_k_m`` gives more bits to the values' and the MLP's second matrices of some layers, and to what the head
multiplies with. Rows that are no multiple of 256 take a type with blocks of 32 in place of a K type. Source:
src/llama-quant.cpp of llama.cpp (``llama_tensor_get_type``, ``tensor_type_fallback``), without importance matrix,
for models without experts.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Literal

from quail_lightning.functional.ggml_blocks import LAYOUTS, BlockType

FileType = Literal["q4_k_m", "q4_0", "q8_0"]
FILE_TYPES: dict[FileType, tuple[int, BlockType]] = {
    "q4_0": (2, "Q4_0"),
    "q8_0": (7, "Q8_0"),
    "q4_k_m": (15, "Q4_K"),
}
"""Number of the file type in ``general.file_type``, and the block type of most tensors."""

_FALLBACK: dict[BlockType, BlockType] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def wanted_types(file_type: FileType, names: Set[str], layers: int, grouped_70b: bool) -> dict[str, BlockType]:
    """The type of each tensor where its rows allow it.

    Args:
        file_type: of the file.
        names: of the tensors to be quantized, as GGUF has them: ``blk.3.attn_v.weight``.
        layers: of the model.
        grouped_70b: whether llama.cpp takes it for a model of 70 billion parameters with shared values.
    """
    usual = FILE_TYPES[file_type][1]
    head = "output.weight" if "output.weight" in names else "token_embd.weight"
    types: dict[str, BlockType] = dict.fromkeys(names, usual)
    for name in names:
        if name == head and usual != "Q8_0":
            types[name] = "Q6_K"
        elif file_type == "q4_k_m" and (found := _LAYER.fullmatch(name)):
            layer, matrix = int(found[1]), found[2]
            if matrix in ("attn_v", "ffn_down") and _takes_more_bits(layer, layers):
                types[name] = "Q6_K"
            elif matrix == "attn_v" and grouped_70b:
                types[name] = "Q5_K"
    return types


def fitting_type(wanted: BlockType, inputs: int) -> BlockType | None:
    """The type that a tensor has in the end; None where no block fits.

    Args:
        wanted: of its name.
        inputs: length of its rows.
    """
    taken = wanted if inputs % LAYOUTS[wanted].weights == 0 else _FALLBACK.get(wanted, wanted)
    return None if inputs % LAYOUTS[taken].weights else taken


def is_70b(architecture: str, layers: int, grouped: bool) -> bool:
    """Whether llama.cpp takes a model for one of 70 billion parameters, by the number of its layers.

    Args:
        architecture: as GGUF names it.
        layers: of the model.
        grouped: whether several query heads share keys and values.
    """
    return layers == 80 and (architecture == "qwen2" or (architecture == "llama" and grouped))


def _takes_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
