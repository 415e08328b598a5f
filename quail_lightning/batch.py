"""The batches that travel from the data to the objectives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TokenBatch(NamedTuple):
    """Token windows of one set.

    Attributes:
        input_ids: [batch, time] token numbers.
        attention_mask: [batch, time], 1 for a real token, 0 for padding.
        labels: [batch, time], the input itself, −100 where padded (shifting is the loss's business).
        window: [batch] number of the window within its set, the key of the reference's stored outputs.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    window: Tensor


class ForgetRetainBatch(NamedTuple):
    """One step's windows; a schedule that visits the sets one after the other leaves one side out."""

    forget: TokenBatch | None
    retain: TokenBatch | None
