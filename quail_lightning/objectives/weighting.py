"""How the terms are weighted against each other."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from quail_lightning.errors import InputError

Weighting = Literal["additive", "convex"]


class Weights(NamedTuple):
    """Factors of L = forget · L_forget + retain · L_retain + hinge · L_hinge."""

    forget: float
    retain: float
    hinge: float


def term_weights(weighting: Weighting, alpha: float, gamma: float) -> Weights:
    """The three factors.

    Args:
        weighting: ``additive`` gives 1, α, γ (Eq. 1 of the failure paper; the published tables of both
            papers); ``convex`` gives α, 1 − α, γ (QUAIL Eq. 15).
        alpha: weight of the retain term (additive) or share of the forget term (convex).
        gamma: weight of the hinge.

    Raises:
        InputError: α outside [0, 1] under ``convex``, or a negative weight.
    """
    if weighting == "convex" and not 0 <= alpha <= 1:
        raise InputError(
            "alpha must lie in [0, 1] when weighting is 'convex'",
            given=alpha,
            remedy="Use weighting: additive for the papers' tables (α of 1, 5, 20)",
        )
    if not (0 <= alpha < math.inf and 0 <= gamma < math.inf):
        raise InputError("alpha and gamma must be finite and not negative", given={"alpha": alpha, "gamma": gamma})
    return Weights(alpha, 1 - alpha, gamma) if weighting == "convex" else Weights(1.0, alpha, gamma)


class StepWeights(NamedTuple):
    """How one optimizer step on some of the terms is weighted.

    Attributes:
        losses: factors of the losses whose gradients are accumulated.
        gradient: factor of the gradient once it is clipped.
    """

    losses: Weights
    gradient: float


def step_weights(weights: Weights, side: Literal["forget", "retain"]) -> StepWeights:
    """A step on one set alone, beside another one on the other set.

    A loss's weight before clipping and before AdamW, which both take a gradient's size away, would change nothing.
    So the gradient is clipped with its set's weight divided out, and multiplied by 2 w / (w_forget + w_retain)
    afterwards: the two steps' gradients enter AdamW's moments in the proportion that one step on their sum has
    (docs/benchmarks.md, Weighting). With equal weights that factor is 1.

    Worked: α = 3 (additive) and γ = 8 → the forget step takes L_forget + 8 L_hinge and the factor 0.5, the retain
    step L_retain and the factor 1.5.

    Args:
        weights: of the whole loss.
        side: the set of the step. The forget set's weight is that of its own term, or the hinge's where that is 0.
    """
    forget = weights.forget or weights.hinge
    together = forget + weights.retain
    own = forget if side == "forget" else weights.retain
    if not own:
        return StepWeights(weights, 0.0 if together else 1.0)
    return StepWeights(Weights(*(weight / own for weight in weights)), 2 * own / together)
