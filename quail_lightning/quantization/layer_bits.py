"""Mixed precision: bits by layer-name pattern."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from quail_lightning.errors import InputError


def bits_of_layers(names: Collection[str], bits: int, layer_bits: Mapping[str, int] | None) -> dict[str, int]:
    """The bits of every quantized layer.

    Args:
        names: of the quantized layers, such as ``model.layers.0.mlp.down_proj``.
        bits: of the layers that no pattern names.
        layer_bits: shell-style pattern → bits (``*.down_proj: 8``); the first one that matches counts.

    Raises:
        InputError: patterns that match no layer (a misspelling would be lost silently).
    """
    patterns = layer_bits or {}
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if idle:
        raise InputError(
            f"layer_bits: no quantized layer is named like {', '.join(map(repr, idle))}",
            allowed="patterns such as '*.down_proj' or 'model.layers.0.*'; layers are named like "
            + repr(next(iter(names))),
        )
    return {
        name: next((own for pattern, own in patterns.items() if fnmatchcase(name, pattern)), bits)
        for name in names
    }
