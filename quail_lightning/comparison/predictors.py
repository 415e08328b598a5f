"""What of an update's forgetting quantization is likely to leave, foreseen from weights and from one gradient.

w is the target, w′ the unlearned model, δ = w′ − w its update, Q a format fitted to each of the two,
D = Q(w′) − Q(w) what the format delivers, N the mean NLL of the forget windows, nats a token, and g = ∂N/∂w **at
the unlearned model w′**, by the weights that are quantized. What is foreseen is the share that is kept:
1 − max(0, N(w′) − N(Q(w′))) / (N(w′) − N(w)), ``kept_forgetting`` without the cap at a retrained model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quail_lightning.comparison.result import Delivery


@dataclass(frozen=True)
class Predictor:
    """One way to foresee it.

    Attributes:
        name: in files.
        formula: as it is printed.
        needs_gradient: whether ``of`` is None without the forget text.
        of: a format's sums and the rise N(w′) − N(w) in nats a token (None where no text was given) → the figure.
    """

    name: str
    formula: str
    needs_gradient: bool
    of: Callable[[Delivery, float | None], float | None]


def kept_by_gradient(delivery: Delivery, rise: float | None) -> float | None:
    """1 − max(0, ⟨g, w′ − Q(w′)⟩) / (N(w′) − N(w)): what is kept, to first order.

    The fall N(w′) − N(Q(w′)) is ⟨g, w′ − Q(w′)⟩ to first order in the rounding error, and only a fall counts as
    return. Rounding errors of 4 bits are not small, so that curvature may outweigh the slope.

    Args:
        delivery: with the sums of a gradient taken at w′.
        rise: N(w′) − N(w), nats a token.

    Returns:
        fraction, at most 1; None without a gradient, or where the NLL did not rise.
    """
    if rise is None or rise <= 0 or delivery.slope == 0:
        return None
    return 1 - max(0.0, delivery.slope_rounded_off) / rise


def kept_by_weights(delivery: Delivery) -> float | None:
    """⟨D, δ⟩/‖δ‖² within 0 … 1: the share of the update that arrives in its own direction.

    Returns:
        fraction; None where nothing moved.
    """
    return None if delivery.along is None else min(1.0, max(0.0, delivery.along))


def delivered_slope(delivery: Delivery) -> float | None:
    """⟨g, D⟩ / ⟨g, δ⟩: the share of the update's first-order rise that D brings; None where that is 0."""
    return delivery.slope_delivered / delivery.slope if delivery.slope else None


def _delivered_fall(delivery: Delivery, rise: float | None) -> float | None:
    if rise is None or rise <= 0 or delivery.slope == 0:
        return None
    return 1 - (delivery.slope - delivery.slope_delivered) / rise


PREDICTORS = (
    Predictor("overlap", "equal indices on the target's levels", False, lambda d, _: d.buckets.overlap),
    Predictor("overlap_on_own_grids", "equal indices, own levels", False, lambda d, _: d.buckets.own_grids),
    Predictor("along_the_update", "⟨D, δ⟩/‖δ‖²", False, lambda d, _: d.along),
    Predictor("cosine", "⟨D, δ⟩/(‖D‖·‖δ‖)", False, lambda d, _: d.cosine),
    Predictor("signal_to_noise", "signal/noise", False, lambda d, _: d.signal_to_noise),
    Predictor("seen", "1 − share of ‖δ‖² that stays in the bucket of 0", False, lambda d, _: d.seen),
    Predictor("left_by_rounding", "1 − ⟨w′ − Q(w′), δ⟩/‖δ‖²", False, lambda d, _: d.left_by_rounding),
    Predictor("delivered_slope", "⟨g, D⟩/⟨g, δ⟩", True, lambda d, _: delivered_slope(d)),
    Predictor("delivered_fall", "1 − ⟨g, δ − D⟩/rise", True, _delivered_fall),
    Predictor("kept_by_gradient", "1 − max(0, ⟨g, w′ − Q(w′)⟩)/rise", True, kept_by_gradient),
)
"""Of each the higher, the more is foreseen to be kept; but of overlaps, by QUAIL's account, the lower."""
