"""What the unlearning module asks of a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from quail_lightning.batch import TokenBatch

Forward = Callable[[nn.Module, Tensor], Tensor]
"""Model and input_ids [batch, time] → logits [batch, time, vocabulary]."""


@runtime_checkable
class Reference(Protocol):
    """The frozen target's logits on the forget windows."""

    def check(self, windows: Tensor, vocabulary: int, bytes_per_logit: int) -> None:
        """Refuse what will not fit, before any model is loaded.

        Args:
            windows: [n, time] all forget windows.
            vocabulary: entries of one logit vector.
            bytes_per_logit: of the training step's arithmetic.

        Raises:
            InputError: the reference would need more memory than it may take.
        """
        ...

    def prepare(self, target: nn.Module, windows: Tensor, forward: Forward, batch_size: int) -> None:
        """Take what will be needed from the target, once, before the first step.

        Args:
            target: the frozen target, on the training device; the reference may keep it or let it go.
            windows: [n, time] all forget windows; row i is asked for later as index i.
            forward: the very forward pass (arithmetic, autocast) of the training step.
            batch_size: windows a forward pass.
        """
        ...

    def logits(self, batch: TokenBatch) -> Tensor:
        """[batch, time, vocabulary] logits of the target, on the batch's device, without gradient."""
        ...
