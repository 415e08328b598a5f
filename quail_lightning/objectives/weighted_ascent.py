"""Gradient ascent with a weight for each token."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.reweighting import reweighted_ascent
from quail_lightning.functional.token_likelihood import log_likelihood, mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs


class WeightedAscent:
    """WGA: gradient ascent that leaves forgotten tokens alone (Wang et al. 2025): minimizes E[p^β · log p].

    p is each true token's probability; no gradient flows through the weight.

    Args:
        beta: β, open-unlearning's 1; 0 is gradient ascent, larger lets go of a token earlier.
    """

    short = "wga"
    needs = Needs(tokens=(log_likelihood,))

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = _exponent("WGA's beta", beta)

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, nats a token."""
        return mean_over_real(reweighted_ascent(inputs.tokens[0], self.beta), inputs.labels)


class SaturationImportance:
    """SatImp: gradient ascent on tokens neither forgotten nor certain (Yang et al. 2025).

    Minimizes E[p^β1 · (1 − p)^β2 · log p], p being each true token's probability; no gradient flows through the
    weight, which at the defaults is largest at p = 5/6 (0.067) and 0 at p = 1.

    Args:
        beta1: of saturation, open-unlearning's 5; larger lets go of a token earlier.
        beta2: of importance, open-unlearning's 1; larger spares tokens that the model is sure of.
    """

    short = "satimp"
    needs = Needs(tokens=(log_likelihood,))

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0) -> None:
        self.beta1, self.beta2 = _exponent("SatImp's beta1", beta1), _exponent("SatImp's beta2", beta2)

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, nats a token."""
        return mean_over_real(reweighted_ascent(inputs.tokens[0], self.beta1, self.beta2), inputs.labels)


def _exponent(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} must be 0 or a positive number", given=value)
    return value
