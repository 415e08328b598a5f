"""Hinge terms."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.hinge import logit_hinge
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.predictions import Predictions


class LogitHinge:
    """QUAIL's quantization-aware hinge on the forget set (Eq. 14, averaged as in Eq. 18).

    Args:
        step: Δ_q in logits, 1.0 in the paper; larger asks for a larger distance from the target.
    """

    needs_reference = True

    def __init__(self, step: float = 1.0) -> None:
        if not 0 < step < math.inf:
            raise InputError("the hinge's step (Δ_q, in logits) must be positive and finite", given=step)
        self.step = step

    def loss(self, predictions: Predictions) -> Tensor:
        """Mean hinge over the real tokens, in logits; see ``logit_hinge`` for its gradient at equality."""
        assert predictions.reference is not None
        values = logit_hinge(predictions.logits, predictions.reference, self.step)
        return mean_over_real(values, predictions.labels)
