"""Forgetting by logits that prefer no token."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.flattening import squared_margin
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs


class MarginFlattening:
    """PDU's forget term (Entesari et al. 2025, Constrained Entropic Unlearning): minimizes E[(max z − mean z)²].

    z are a token's logits. A quadratic of logits is large beside a retain term in nats: the authors start with
    50 or 100 times the retain loss (``model.alpha``) and keep it below a bound (``model.dual``).
    """

    short = "pdu"
    needs = Needs(tokens=(squared_margin,))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, squared logits."""
        return mean_over_real(inputs.tokens[0], inputs.labels)
