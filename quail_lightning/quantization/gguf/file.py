"""Writing a GGUF file that llama.cpp runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.functional.ggml_blocks import LAYOUTS, BlockType
from quail_lightning.quantization.gguf.metadata import add_metadata, rotation_divisors
from quail_lightning.quantization.gguf.names import HEAD, architecture_of, gguf_name, permuted
from quail_lightning.quantization.gguf.tensors import packed
from quail_lightning.quantization.gguf.vocabulary import vocabulary
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.storage.gguf_files import PROVENANCE

_PLAIN = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def tensors_of(model: PreTrainedModel, types: Mapping[str, BlockType]) -> dict[str, tuple[str, Tensor, str]]:
    """Name in a file → name of the parameter, weight and type; the model may be on the meta device.

    A head that is the embedding is left out, and weights that layers share stand once for each, in one type.

    Args:
        model: of an architecture that has a name in GGUF.
        types: parameter → block type; the other matrices keep the model's dtype, vectors are float32.
    """
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    own_types = {model.get_parameter(name): kind for name, kind in types.items()}  # a shared one has two names
    tensors: dict[str, tuple[str, Tensor, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = gguf_name(name)
        assert known is not None
        if not (tied and known == HEAD):
            plain = "F32" if parameter.ndim == 1 else _PLAIN[model.dtype]
            tensors[known] = name, parameter.detach(), own_types.get(parameter, plain)
    if (divisors := rotation_divisors(model.config)) is not None:
        tensors["rope_freqs.weight"] = "rope_freqs", divisors, "F32"
    return tensors


def size_of(weight: Tensor, kind: str) -> int:
    """Bytes of a weight in a file."""
    if (layout := LAYOUTS.get(kind)) is not None:  # type: ignore[call-overload]
        return weight.numel() // layout.weights * layout.size
    return weight.numel() * (4 if kind == "F32" else 2)


def write(
    model: PreTrainedModel,
    tokenizer: Any,
    path: Path,
    types: Mapping[str, BlockType],
    file_type: int,
    provenance: Mapping[str, Any],
) -> None:
    """Write a model; weights are packed one after another, while they are written.

    Args:
        model: of an architecture that has a name in GGUF, whole.
        tokenizer: that llama.cpp has as well.
        path: of the file, which is overwritten.
        types: see ``tensors_of``.
        file_type: llama.cpp's number, which readers show.
        provenance: noted in the file as JSON.
    """
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter

    config, architecture = model.config, architecture_of(model)
    writer = GGUFWriter(None, architecture)
    writer.add_type("model")
    writer.add_name(Path(str(provenance.get("target") or model.name_or_path or "model")).name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_metadata(writer, config)
    vocabulary(tokenizer, config.vocab_size).add_to(writer)
    writer.add_string(PROVENANCE, json.dumps(provenance, ensure_ascii=False, default=str))
    tensors = tensors_of(model, types)
    for known, (_, weight, kind) in tensors.items():
        number = GGMLQuantizationType[kind]
        writer.add_tensor_info(known, weight.shape, np.dtype(np.float16), size_of(weight, kind), raw_dtype=number)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for known, (name, weight, kind) in tensors.items():
            ordered = permuted(weight, known, architecture, config.num_attention_heads, config.num_key_value_heads)
            writer.write_tensor_data(_content(name, ordered, kind))
    finally:
        writer.close()


def _content(name: str, weight: Tensor, kind: str) -> NDArray[Any]:
    if kind in LAYOUTS:
        return packed(name, weight, kind)[0]
    held = weight.cpu().contiguous()
    if kind == "BF16":
        return held.view(torch.int16).numpy()
    return held.to(torch.float32 if kind == "F32" else torch.float16).numpy()
