"""The architecture's own keys: none missing for which the library would take a default, none of the wrong kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from quail_lightning.conversion.gguf_header import GgufHeader
from quail_lightning.storage.readable import damaged

SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
BY_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")
"""Keys that some architectures give for each layer."""
BLOCK = re.compile(r"blk\.(\d+)\.")  # of a tensor's name


def mapped_keys(header: GgufHeader) -> Mapping[str, Any]:
    """The architecture's keys that the library carries over → its names of them; of one that it reads."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    known: dict[str, Any] = GGUF_CONFIG_MAPPING
    found: Mapping[str, Any]
    found = next(keys for name, keys in known.items() if plain(name) == plain(header.architecture))
    return found


def plain(name: str) -> str:
    """An architecture's name as llama.cpp and the library both have it: qwen2moe, qwen2_moe."""
    return name.replace("_", "").replace("-", "")


def check_keys(header: GgufHeader, compared: Mapping[str, Any]) -> None:
    """See that a file says what its model cannot be built without, in numbers, and has as many blocks as it says.

    Args:
        header: of an architecture that the library reads.
        compared: keys that are read besides those that the library carries over.

    Raises:
        InputError: naming the key.
    """
    mapped = mapped_keys(header)
    for key in (*SIZES, *EPSILONS):
        if key in mapped and header.own(key) is None:
            raise damaged(header.file, f"it does not say {header.architecture}.{key}")
    for key in {**mapped, **compared}:
        if (value := header.own(key)) is not None and not _is_sound(key, value):
            shown = str(value)[:40]
            raise damaged(header.file, f"{header.architecture}.{key} cannot be {shown}")
    blocks = 1 + max((int(found[1]) for name in header.tensors if (found := BLOCK.match(name))), default=-1)
    if "block_count" in mapped and (said := header.own("block_count")) != blocks:
        raise damaged(header.file, f"it says block_count {said:,} and holds tensors of {blocks:,} blocks")


def _is_sound(key: str, value: Any) -> bool:
    if isinstance(value, list):
        return key in BY_LAYER and all(type(each) is int and each >= 0 for each in value)
    if key in SIZES:
        return type(value) is int and value > 0
    return type(value) in (int, float) and math.isfinite(value)
