"""Forget terms."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.token_likelihood import mean_over_real, token_log_likelihood
from quail_lightning.objectives.predictions import Predictions


class GradientAscent:
    """GA: minimizes +E[log f(y|x)], that is, it ascends the loss on the forget set.

    Eq. 1 of "Catastrophic Failure ..." and Eq. 16 of QUAIL are printed with the sign of descent; their
    text and their code mean ascent. The term has no lower bound.
    """

    needs_reference = False

    def loss(self, predictions: Predictions) -> Tensor:
        """Mean log-likelihood of the real tokens, in nats a token."""
        values = token_log_likelihood(predictions.logits, predictions.labels)
        return mean_over_real(values, predictions.labels)
