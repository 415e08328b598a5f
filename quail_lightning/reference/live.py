"""A second, frozen model that is asked anew in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quail_lightning.batch import TokenBatch
from quail_lightning.reference.protocol import Forward


class LiveReference:
    """Keep the target in memory: one more model and one more forward pass a step, and exactly the arithmetic
    of the live logits (same batch, same kernels), so that the hinge is exactly flat at step 0."""

    def __init__(self) -> None:
        self._target: nn.Module | None = None
        self._forward: Forward | None = None

    def check(self, windows: Tensor, vocabulary: int, bytes_per_logit: int) -> None:
        """Nothing is stored beside the model itself."""

    def prepare(self, target: nn.Module, windows: Tensor, forward: Forward, batch_size: int) -> None:
        self._target, self._forward = target, forward

    def logits(self, batch: TokenBatch) -> Tensor:
        assert self._target is not None
        assert self._forward is not None
        with torch.no_grad():
            return self._forward(self._target, batch.input_ids)
