"""Gradient ascent on the forget set, gradient descent on the retain set."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.token_likelihood import log_likelihood, mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs


class GradientAscent:
    """GA: minimizes +E[log f(y|x)], that is, it ascends the loss on the forget set.

    Eq. 1 of "Catastrophic Failure ..." and Eq. 16 of QUAIL are printed with the sign of descent; their
    text and their code mean ascent. The term has no lower bound.
    """

    short = "ga"
    needs = Needs(tokens=(log_likelihood,))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean log-likelihood of the real tokens, in nats a token."""
        return mean_over_real(inputs.tokens[0], inputs.labels)


class GradientDescent:
    """GDR: minimizes −E[log f(y|x)] on the retain set ("Catastrophic Failure ...", section 3; QUAIL Eq. 17).

    As a forget term it learns the windows that it is given: refusals, generic labels, or (for a task vector) the
    forget set itself.
    """

    short = "gdr"
    needs = Needs(tokens=(log_likelihood,))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean negative log-likelihood of the real tokens, in nats a token."""
        return -mean_over_real(inputs.tokens[0], inputs.labels)
