"""The batches that travel from the data to the objectives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TokenBatch(NamedTuple):
    """Token windows of one set.

    Attributes:
        input_ids: [batch, time] token numbers.
        labels: [batch, time], the input itself (shifting is the loss's business); windows have no padding.
        window: [batch] number of the window within its set, the key of the reference's stored outputs.
    """

    input_ids: Tensor
    labels: Tensor
    window: Tensor


class ForgetRetainBatch(NamedTuple):
    """One step's windows; a schedule that visits the sets one after the other leaves one side out."""

    forget: TokenBatch | None
    retain: TokenBatch | None
