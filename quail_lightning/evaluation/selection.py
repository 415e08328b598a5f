"""One number to choose a model by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.survival import delivered_forgetting
from quail_lightning.run.results import Estimate


class Likelihoods(NamedTuple):
    """Mean NLL of a model on the validation windows, nats a token, and what else is noted of it.

    Attributes:
        forget: of the forget set.
        retain: of the retain set.
        windows: NLL of each forget window.
        verbatim: set → mean ROUGE-L F1 × 100 of its validation prompts' completions.
    """

    forget: float
    retain: float
    windows: tuple[float, ...] = ()
    verbatim: Mapping[str, float] = {}


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
        _unforgotten(found, goal) + _lost(found, target[precision]) for precision, found in unlearned.items()
    )


def forgetting_gap(unlearned: Mapping[str, Likelihoods], goal: float) -> float:
    """The first part of ``shortfall`` alone: what is missing from the goal at the worst precision; 0 is best.

    Returns:
        nats a token.
    """
    return max(_unforgotten(found, goal) for found in unlearned.values())


def kept_share(unlearned: Mapping[str, Likelihoods], target: Mapping[str, Likelihoods]) -> float:
    """The second part of ``shortfall`` alone, as a share: exp(−rise of the retain NLL) at the worst precision.

    The target's perplexity on the retain windows over the model's, at most 1: how much of the probability that the
    target gives a token of them, in the geometric mean, the model still gives it.

    Returns:
        a fraction in [0, 1]; 1 is best.
    """
    return math.exp(-max(_lost(found, target[precision]) for precision, found in unlearned.items()))


def _unforgotten(found: Likelihoods, goal: float) -> float:
    return max(0.0, goal - found.forget)


def _lost(found: Likelihoods, target: Likelihoods) -> float:
    return max(0.0, found.retain - target.retain)


def delivered(
    unlearned: Mapping[str, Likelihoods], target: Mapping[str, Likelihoods], at_16_bits: str
) -> dict[str, float | None]:
    """Precision → share of the 16-bit rise of the forget windows' NLL that is there after quantization.

    Args:
        unlearned: precision → the model's.
        target: precision → the target's, on the same windows.
        at_16_bits: the precision that the others are compared with; where it was not evaluated, nothing is told.

    Returns:
        fractions; None where the rise is not above zero by its interval.
    """
    if at_16_bits not in unlearned:
        return {}
    rows = (unlearned, target)
    wide = [bootstrap_mean(model[at_16_bits].windows) for model in rows]
    found: dict[str, float | None] = {}
    for precision in unlearned:
        if precision != at_16_bits:
            share = delivered_forgetting(*(bootstrap_mean(model[precision].windows) for model in rows), *wide)
            found[precision] = share.value if isinstance(share, Estimate) else None
    return found
