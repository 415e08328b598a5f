"""What comparing two models' weights yields: sums per tensor, which add up to layers and models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quail_lightning.functional.affine_grid import GridKind

Scope = Literal["quantized", "all"]
"""The linear weights that quantizers quantize, or all parameters (as in QUAIL's Table I)."""
SharedStep = Literal["global", "tensor"]
"""One step for all weights of the scope, or one for each tensor."""

BINS = 2**15  # the exponent and seven bits of mantissa of a float32 magnitude


class GridKey(NamedTuple):
    """One column of the overlap table.

    Attributes:
        kind: formula of the grid.
        granularity: ``global`` or ``tensor``.
        bits: N.
        scope: whose range a global grid spans; ``all`` for tensor-wise grids, where it decides nothing.
    """

    kind: GridKind
    granularity: SharedStep
    bits: int
    scope: Scope


@dataclass
class Change:
    """How far weights moved: δ = w′ − w.

    Attributes:
        count: weights.
        equal: of which did not move.
        sum_abs, sum_squares: Σ|δ| and Σδ².
        largest: max|δ|.
        histogram: [2^15] weights by the upper 16 bits of |δ| in float32: quantiles to 0.4 %. None where it was
            dropped, since a quarter of a megabyte a tensor adds up.
    """

    count: int = 0
    equal: int = 0
    sum_abs: float = 0.0
    sum_squares: float = 0.0
    largest: float = 0.0
    histogram: NDArray[np.int64] | None = field(default_factory=lambda: np.zeros(BINS, np.int64), repr=False)

    def __iadd__(self, other: Change) -> Change:
        self.count += other.count
        self.equal += other.equal
        self.sum_abs += other.sum_abs
        self.sum_squares += other.sum_squares
        self.largest = max(self.largest, other.largest)
        known = self.histogram is not None and other.histogram is not None
        self.histogram = self.histogram + other.histogram if known else None  # type: ignore[operator]
        return self

    @property
    def mean(self) -> float:
        """Mean |δ|."""
        return self.sum_abs / self.count

    @property
    def rms(self) -> float:
        """√ of the mean δ²."""
        return math.sqrt(self.sum_squares / self.count)

    @property
    def exact_matches(self) -> float:
        """Share of the weights that did not move."""
        return self.equal / self.count

    def quantile(self, share: float) -> float:
        """The |δ| that ``share`` of the weights do not exceed, to half a bin: 0.4 %."""
        assert self.histogram is not None
        cell = int(np.searchsorted(np.cumsum(self.histogram), max(1, math.ceil(share * self.count))))
        edges = np.array([cell, cell + 1], np.uint32) << 16
        low, high = edges.view(np.float32).tolist()
        return 0.0 if cell == 0 else min((low + high) / 2, self.largest)


@dataclass
class Overlap:
    """Bucket overlap on one grid.

    Attributes:
        count: weights.
        same: whose indices on the reference's grid are equal (the overlap as defined).
        own: whose indices are equal when each model has its own grid.
        itself: weights of the model whose index on its grid equals that of their quantized value on the
            quantized model's own grid (QUAIL Fig. 2).
        crossing: Σ min(1, |δ|/Δ), the weights expected to change bucket.
        step_sum: Σ Δ over the weights.
    """

    count: int = 0
    same: int = 0
    own: int = 0
    itself: int = 0
    crossing: float = 0.0
    step_sum: float = 0.0

    def __iadd__(self, other: Overlap) -> Overlap:
        _add(self, other)
        return self

    @property
    def overlap(self) -> float:
        """Share of equal indices on the reference's grid."""
        return self.same / self.count

    @property
    def own_grids(self) -> float:
        """Share of equal indices, each model on its own grid."""
        return self.own / self.count

    @property
    def with_itself(self) -> float:
        """Share of the model's indices that its quantized self has too."""
        return self.itself / self.count

    @property
    def expected(self) -> float:
        """E[1 − min(1, |δ|/Δ)], the overlap if weights lie uniformly within their buckets."""
        return 1 - self.crossing / self.count

    @property
    def step(self) -> float:
        """Δ; where tensors have their own, the mean over weights."""
        return self.step_sum / self.count


@dataclass
class Delivery:
    """What a deployment format leaves of the update: D = Q(w′) − Q(w), each on its own grid, against δ.

    Attributes:
        buckets: the overlap of the format's indices, Δ being each weight's own bucket's width; without ``itself``
            and ``step_sum``.
        product, delivered, intended: Σ δ·D, Σ D², Σ δ².
        unseen: Σ δ² over weights that lie in the bucket of 0 before and after the update, both on the target's
            levels.
        rounded_off: Σ δ·(w′ − Q(w′)).
        slope: Σ g·δ, g the gradient of the forget NLL; 0, like the next two, where none was given.
        slope_delivered, slope_rounded_off: Σ g·D and Σ g·(w′ − Q(w′)).
        noise: Σ Δ·min(|δ|, Δ), the expected Σ (D − δ)² for |δ| far below Δ.
        sum_abs: Σ |δ|.
        snr_squares: Σ over weights of the squared signal-to-noise ratio of their tensor.
        snr_expected_squares: the same for the expected ratio.
    """

    buckets: Overlap = field(default_factory=Overlap)
    product: float = 0.0
    delivered: float = 0.0
    intended: float = 0.0
    unseen: float = 0.0
    rounded_off: float = 0.0
    slope: float = 0.0
    slope_delivered: float = 0.0
    slope_rounded_off: float = 0.0
    noise: float = 0.0
    sum_abs: float = 0.0
    snr_squares: float = 0.0
    snr_expected_squares: float = 0.0

    def __iadd__(self, other: Delivery) -> Delivery:
        _add(self, other)
        return self

    def set_signal_to_noise(self, inputs: int) -> None:
        """Fill in the ratios, once the sums of a tensor [outputs, inputs] are complete.

        To an input aligned with a row's δ the update says Σ|δ| over the row; what the grid adds to it is
        noise of variance Σ(D − δ)². Expected: √(n·|δ|/Δ) for n inputs, where |δ| is far below Δ.
        """
        count = self.buckets.count
        signal = inputs * (self.sum_abs / count) ** 2
        found = (self.delivered - 2 * self.product + self.intended) / count
        self.snr_squares = count * (signal / found if found > 0 else math.inf if signal else 0.0)
        expected = self.noise / count
        self.snr_expected_squares = count * (signal / expected if expected > 0 else 0.0)

    @property
    def norm_ratio(self) -> float | None:
        """‖D‖ / ‖δ‖; None where nothing moved."""
        return math.sqrt(self.delivered / self.intended) if self.intended > 0 else None

    @property
    def cosine(self) -> float | None:
        """Cosine of D and δ; None where one of them is 0."""
        norms = math.sqrt(self.delivered) * math.sqrt(self.intended)
        return self.product / norms if norms > 0 else None

    @property
    def along(self) -> float | None:
        """⟨D, δ⟩ / ‖δ‖²: share of the update that arrives in its own direction; None where nothing moved."""
        return self.product / self.intended if self.intended > 0 else None

    @property
    def seen(self) -> float | None:
        """1 − Σδ²/‖δ‖² over weights that stay in the bucket of 0, where D is 0; None where nothing moved.

        Squares, as of ``along``, to whose ⟨D, δ⟩ those weights add nothing while the levels stay as they are.
        """
        return 1 - self.unseen / self.intended if self.intended > 0 else None

    @property
    def left_by_rounding(self) -> float | None:
        """1 − ⟨w′ − Q(w′), δ⟩/‖δ‖²: what rounding the unlearned model leaves of its update; None likewise.

        Unlike ``along`` it does not ask what rounding does to the target.
        """
        return 1 - self.rounded_off / self.intended if self.intended > 0 else None

    @property
    def signal_to_noise(self) -> float | None:
        """Of a row, for an input aligned with its update; over several tensors the root mean square.

        None where the format adds no noise at all.
        """
        return math.sqrt(self.snr_squares / self.buckets.count) if math.isfinite(self.snr_squares) else None

    @property
    def expected_signal_to_noise(self) -> float:
        """√(n·|δ|/Δ), averaged likewise."""
        return math.sqrt(self.snr_expected_squares / self.buckets.count)


def _add(total: object, part: object) -> None:
    """Every attribute of ``part`` to that of ``total``."""
    for name, value in vars(part).items():
        sum_of_both = getattr(total, name)
        sum_of_both += value
        setattr(total, name, sum_of_both)


@dataclass
class TensorComparison:
    """One parameter of the two models.

    Attributes:
        name: of the parameter.
        shape: its sizes.
        layer: number of its decoder layer; None outside of them.
        quantized: whether quantizers quantize it.
        change: how far it moved.
        overlaps: by grid.
        deliveries: by deployment format; empty unless quantized.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    quantized: bool
    change: Change
    overlaps: dict[GridKey, Overlap]
    deliveries: dict[str, Delivery]

    def add(self, part: TensorComparison) -> None:
        """Take in another stretch of the same tensor."""
        self.change += part.change
        for key, overlap in part.overlaps.items():
            self.overlaps[key] += overlap
        for name, delivery in part.deliveries.items():
            self.deliveries[name] += delivery


@dataclass(frozen=True)
class Comparison:
    """All parameters of the two models.

    Attributes:
        tensors: in the model's order, without their histograms.
        changes: of the quantized weights and of all parameters, with histogram.
    """

    tensors: tuple[TensorComparison, ...]
    changes: Mapping[Scope, Change]

    def within(self, scope: Scope) -> tuple[TensorComparison, ...]:
        """The tensors of a scope."""
        return tuple(tensor for tensor in self.tensors if scope == "all" or tensor.quantized)

    def layers(self) -> dict[int, tuple[TensorComparison, ...]]:
        """Quantized tensors by decoder layer."""
        quantized = self.within("quantized")
        numbers = sorted({tensor.layer for tensor in quantized if tensor.layer is not None})
        return {number: tuple(t for t in quantized if t.layer == number) for number in numbers}


def total_change(tensors: Iterable[TensorComparison]) -> Change:
    """The change of several tensors, without quantiles."""
    total = Change(histogram=None)
    for tensor in tensors:
        total += tensor.change
    return total


def total_overlap(tensors: Iterable[TensorComparison], key: GridKey) -> Overlap:
    """The overlap of several tensors: the mean weighted by size."""
    total = Overlap()
    for tensor in tensors:
        total += tensor.overlaps[key]
    return total


def total_delivery(tensors: Iterable[TensorComparison], name: str) -> Delivery:
    """The delivery of several tensors."""
    total = Delivery()
    for tensor in tensors:
        total += tensor.deliveries[name]
    return total


def key_for(kind: GridKind, granularity: SharedStep, bits: int, scope: Scope) -> GridKey:
    """The grid under which a scope's overlap is counted."""
    return GridKey(kind, granularity, bits, "all" if granularity == "tensor" else scope)
