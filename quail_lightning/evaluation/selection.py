"""One number to choose a model by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Likelihoods(NamedTuple):
    """Mean NLL of a model on the validation windows, nats a token.

    Attributes:
        forget: of the forget set.
        retain: of the retain set.
    """

    forget: float
    retain: float


def shortfall(unlearned: Mapping[str, Likelihoods], target: Mapping[str, Likelihoods], goal: float) -> float:
    """How far a model is from having forgotten enough and lost nothing, at its worst precision; 0 is best.

    A precision's share is max(0, goal − NLL_forget) + max(0, NLL_retain − the target's NLL_retain there). What is
    forgotten beyond the goal counts for nothing, so that a model is not preferred for being destroyed.

    Args:
        unlearned: precision → the model's.
        target: precision → the target's, at the same precisions.
        goal: NLL of forget windows at which they count as forgotten, nats a token; the retrained model's.

    Returns:
        nats a token.
    """
    return max(
        max(0.0, goal - found.forget) + max(0.0, found.retain - target[precision].retain)
        for precision, found in unlearned.items()
    )
