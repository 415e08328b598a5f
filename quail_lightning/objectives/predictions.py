"""What a term of the loss sees."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Predictions(NamedTuple):
    """Aligned predictions of one batch: position t of ``logits`` predicts position t of ``labels``.

    Attributes:
        logits: [batch, time − 1, vocabulary] of the model being unlearned.
        labels: [batch, time − 1] the true next tokens, ``IGNORED`` (−100) where there is none.
        reference: [batch, time − 1, vocabulary] of the frozen target, where a term asked for it.
    """

    logits: Tensor
    labels: Tensor
    reference: Tensor | None = None


@runtime_checkable
class Term(Protocol):
    """One term of the loss.

    Attributes:
        needs_reference: whether the frozen target's logits must be at hand.
    """

    needs_reference: bool

    def loss(self, predictions: Predictions) -> Tensor:
        """A scalar to be minimized."""
        ...
