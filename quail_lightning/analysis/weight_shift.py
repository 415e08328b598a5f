"""A comparison of two models' weights as numbers in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quail_lightning.comparison import (
    Change,
    Comparison,
    Delivery,
    GridKey,
    Overlap,
    Questions,
    Scope,
    TensorComparison,
    total_change,
    total_delivery,
    total_overlap,
)

QUANTILES = (0.5, 0.9, 0.99, 0.999)
SCOPES: tuple[Scope, ...] = ("quantized", "all")


def as_json(found: Comparison, questions: Questions) -> dict[str, Any]:
    """Model, layers and tensors: shares are fractions, Δ and δ in units of the weights.

    Args:
        found: the comparison.
        questions: that it answers.
    """
    table = [
        _grid(key, scope) | _overlap(total_overlap(found.within(scope), key))
        for key in questions.grids()
        for scope in (SCOPES if key.granularity == "tensor" else (key.scope,))
    ]
    layers = [{"layer": number} | _several(part, questions) for number, part in found.layers().items()]
    tensors = [
        {"name": t.name, "shape": list(t.shape), "layer": t.layer, "quantized": t.quantized}
        | _several([t], questions)
        for t in found.tensors
    ]
    return {
        "weight_change": {scope: _change(found.changes[scope]) for scope in SCOPES},
        "overlap": table,
        "delivered": _deliveries(found.within("quantized"), questions),
        "layers": layers,
        "tensors": tensors,
    }


def _several(tensors: Iterable[TensorComparison], questions: Questions) -> dict[str, Any]:
    tensors = list(tensors)
    quantized = all(tensor.quantized for tensor in tensors)
    return {
        "weight_change": _change(total_change(tensors)),
        "overlap": [
            _grid(key, key.scope) | _overlap(total_overlap(tensors, key))
            for key in questions.grids()
            if quantized or key.scope == "all"
        ],
        "delivered": _deliveries(tensors, questions) if quantized else [],
    }


def _grid(key: GridKey, scope: Scope) -> dict[str, Any]:
    named = {"grid": key.kind, "granularity": key.granularity, "bits": key.bits}
    return named | {"weights": scope}


def _change(change: Change) -> dict[str, Any]:
    found = {
        "count": change.count,
        "mean": change.mean,
        "rms": change.rms,
        "max": change.largest,
        "exact_matches": change.exact_matches,
    }
    if change.histogram is None:
        return found
    return found | {"quantiles": {str(share): change.quantile(share) for share in QUANTILES}}


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "step": overlap.step,
        "overlap": overlap.overlap,
        "expected_overlap": overlap.expected,
        "overlap_on_own_grids": overlap.own_grids,
        "model_with_its_quantized_self": overlap.with_itself,
    }


def _deliveries(tensors: Iterable[TensorComparison], questions: Questions) -> list[dict[str, Any]]:
    tensors = list(tensors)
    return [{"format": used.name} | _delivery(total_delivery(tensors, used.name)) for used in questions.formats]


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "overlap": delivery.buckets.overlap,
        "expected_overlap": delivery.buckets.expected,
        "overlap_on_own_grids": delivery.buckets.own_grids,
        "along_the_update": delivery.along,
        "norm_ratio": delivery.norm_ratio,
        "cosine": delivery.cosine,
        "signal_to_noise": delivery.signal_to_noise,
        "expected_signal_to_noise": delivery.expected_signal_to_noise,
    }
