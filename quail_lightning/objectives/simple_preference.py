"""Simple negative preference optimization as a forget term."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.preference import simple_preference
from quail_lightning.functional.token_likelihood import counted, log_likelihood, mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs


class SimplePreference:
    """SimNPO: NPO without a reference, on each window's mean token (Fan et al. 2024); bounded below by 0.

    −2/β · log σ(−β/|y| · log f(y|x) − γ), with |y| the window's real tokens. It goes on until the text itself is
    unlikely, where NPO stops at a distance from the target.

    Args:
        beta: inverse temperature; larger stops earlier. 4.5 is the authors' for TOFU (forget10) and
            open-unlearning's; the 0.7 and 0.75 of their MUSE runs belong to code that averages raw logits.
        margin: γ, 0 in the authors' runs of this formula; larger forgets further. open-unlearning's δ is γ/β, in
            nats a token.
    """

    short = "simnpo"
    needs = Needs(tokens=(log_likelihood,), mean_over="windows")

    def __init__(self, beta: float = 4.5, margin: float = 0.0) -> None:
        if not 0 < beta < math.inf:
            raise InputError("SimNPO's beta must be positive and finite", given=beta)
        if not 0 <= margin < math.inf:
            raise InputError("SimNPO's margin must be 0 or a positive number", given=margin)
        self.beta, self.margin = beta, margin

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the windows that hold a real token."""
        mean = inputs.tokens[0].sum(dim=-1) / counted(inputs.labels).sum(dim=-1).clamp(min=1)
        return mean_over_real(simple_preference(mean, self.beta, self.margin), inputs.labels, "windows")
