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
