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
    delivered_slope,
    kept_by_gradient,
    kept_by_weights,
    total_change,
    total_delivery,
    total_overlap,
)

QUANTILES = (0.5, 0.9, 0.99, 0.999)
SCOPES: tuple[Scope, ...] = ("quantized", "all")


def as_json(found: Comparison, questions: Questions, rise: float | None = None) -> dict[str, Any]:
    """Model, layers and tensors: shares are fractions, Δ and δ in units of the weights.

    Args:
        found: the comparison.
        questions: that it answers.
        rise: of the forget NLL, nats a token, where its gradient was compared along; None: there was no text.
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
        "delivered": _deliveries(found.within("quantized"), questions, rise),
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


def _deliveries(
    tensors: Iterable[TensorComparison], questions: Questions, rise: float | None = None
) -> list[dict[str, Any]]:
    """The rise is the whole model's: a layer's share of it is not known."""
    tensors = list(tensors)
    totals = {used.name: total_delivery(tensors, used.name) for used in questions.formats}
    return [{"format": name} | _delivery(total) | _along_slope(total, rise) for name, total in totals.items()]


def _along_slope(delivery: Delivery, rise: float | None) -> dict[str, Any]:
    if rise is None:
        return {}
    return {
        "predicted_to_arrive_by_text": kept_by_gradient(delivery, rise),
        "delivered_slope": delivered_slope(delivery),
        "slope_rounded_off": delivery.slope_rounded_off,
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "predicted_to_arrive": kept_by_weights(delivery),
        "overlap": delivery.buckets.overlap,
        "expected_overlap": delivery.buckets.expected,
        "overlap_on_own_grids": delivery.buckets.own_grids,
        "along_the_update": delivery.along,
        "left_by_rounding": delivery.left_by_rounding,
        "seen": delivery.seen,
        "norm_ratio": delivery.norm_ratio,
        "cosine": delivery.cosine,
        "signal_to_noise": delivery.signal_to_noise,
        "expected_signal_to_noise": delivery.expected_signal_to_noise,
    }
