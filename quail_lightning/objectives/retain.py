"""Retain terms."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.token_likelihood import mean_over_real, token_log_likelihood
from quail_lightning.objectives.predictions import Predictions


class GradientDescent:
    """GDR: minimizes −E[log f(y|x)] on the retain set ("Catastrophic Failure ...", section 3; QUAIL Eq. 17)."""

    needs_reference = False

    def loss(self, predictions: Predictions) -> Tensor:
        """Mean negative log-likelihood of the real tokens, in nats a token."""
        values = token_log_likelihood(predictions.logits, predictions.labels)
        return -mean_over_real(values, predictions.labels)
