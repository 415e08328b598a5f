"""KL regularization on the retain set."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.divergence import Direction, kl_divergence
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs, of_target


class KLRetention:
    """KLR: keeps the retain set's next-token distributions as the target's ("Catastrophic Failure ...", Eq. 10).

    Args:
        direction: ``unlearned-target`` is KL(p_unlearned ‖ p_target), the paper's; ``target-unlearned`` the other.
    """

    short = "klr"

    def __init__(self, direction: Direction = "unlearned-target") -> None:
        self.direction = direction

    @property
    def needs(self) -> Needs:
        """The divergence of every token, which reads the target's logits."""
        return Needs(tokens=(self._divergence,), frozen=frozenset({"logits"}))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, in nats."""
        return mean_over_real(inputs.tokens[0], inputs.labels)

    def _divergence(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        return kl_divergence(logits, of_target(reference, "KLR"), self.direction)
