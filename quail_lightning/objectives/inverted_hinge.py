"""The inverted hinge loss as a forget term."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.inverted_hinge import inverted_hinge
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs


def _inverted_hinge(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    return inverted_hinge(logits, labels)


class InvertedHinge:
    """IHL: moves probability from the true token to the most likely other one (Cha et al. 2024); bounded."""

    short = "ihl"
    needs = Needs(tokens=(_inverted_hinge,))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, between 0 and 2."""
        return mean_over_real(inputs.tokens[0], inputs.labels)
