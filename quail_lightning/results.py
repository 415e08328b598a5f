"""What an evaluation yields: estimates with their intervals, in rows of model × precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Estimate:
    """A figure with its size of sample and its 95 % interval.

    Attributes:
        value: the figure, in the metric's own unit (scores are × 100).
        n: how many records it rests on.
        low, high: bounds of the 95 % percentile bootstrap interval.
        scores: the per-record values, in the records' order, for paired comparisons; empty where the
            figure is not a mean over records (an AUC).
    """

    value: float
    n: int
    low: float
    high: float
    scores: tuple[float, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Undefined:
    """A figure that has no value here, and why. Never written as 0."""

    reason: str


Measure = Estimate | Undefined


@dataclass(frozen=True)
class ResultRow:
    """The metrics of one model at one precision.

    Attributes:
        model: ``target``, ``retrained`` or ``unlearned``.
        precision: stem of the quantizer's config file (``bf16``, ``nf4``, ...).
        metrics: metric name → measure; a metric that was not run is absent.
        epoch: finished epochs of unlearning; None for ``target`` and ``retrained``.
    """

    model: str
    precision: str
    metrics: Mapping[str, Measure]
    epoch: int | None = None
