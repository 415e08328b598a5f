"""Which of this program's formats a config of compressed-tensors describes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from quail_lightning.functional.float_codes import FloatFormat
from quail_lightning.quantization.float_packing import PRESETS, FloatPacking
from quail_lightning.quantization.packed_copy import quiet_packing

Signature = tuple[str, str, str | None]
"""Packing, what shares a weight's scale, and what shares an activation's that is taken as it comes."""


def float_format(stored: Mapping[str, Any]) -> FloatFormat | None:
    """The format of ``NarrowFloat`` whose weights and activations a config has; None: another, or unknown here.

    Args:
        stored: ``quantization_config`` of a checkpoint, which another program may have written.
    """
    if find_spec("compressed_tensors") is None:  # then no such checkpoint is loaded either
        return None
    groups = stored.get("config_groups")
    if not isinstance(groups, Mapping):
        return None
    found = {_signature(stored.get("format"), group) for group in groups.values()}
    with quiet_packing():
        known = {name: FloatPacking(name, []).described for name in PRESETS}
    return next((name for name, own in known.items() if found == {_signature(own["format"], own)}), None)


def _signature(packing: Any, group: Any) -> Signature | None:
    """Of a group of layers; None of one that describes no quantized weights."""
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    activations = group.get("input_activations")
    if not isinstance(activations, Mapping):
        return str(packing), str(weights.get("strategy")), None
    taken = str(activations.get("strategy")) if activations.get("dynamic") is True else "static"
    return str(packing), str(weights.get("strategy")), taken
