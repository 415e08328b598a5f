"""The target's logits on every forget window, computed once and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from quail_lightning.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.reference.protocol import Forward

GIB = 2**30


class CachedLogits:
    """QUAIL section VI-E to the letter: z = f_target(x) for all forget windows, in main memory.

    The logits are kept in the dtype in which the training step computes them. One window takes time ×
    vocabulary entries: 131 MB at 2,048 tokens and 32,000 entries of bfloat16.

    Args:
        max_gib: refuse to hold more than this, in GiB.
    """

    def __init__(self, max_gib: float = 8.0) -> None:
        self.max_gib = max_gib
        self._logits: Tensor | None = None

    def check(self, windows: Tensor, vocabulary: int, bytes_per_logit: int) -> None:
        """See that the logits of all windows fit.

        Raises:
            InputError: they need more than ``max_gib``.
        """
        gib = windows.numel() * vocabulary * bytes_per_logit / GIB
        if gib > self.max_gib:
            raise InputError(
                f"the cached logits of {len(windows)} forget windows would take {gib:.1f} GiB",
                given=f"max_gib: {self.max_gib}",
                remedy="Raise model.reference.init_args.max_gib, or use "
                "model.reference: quail_lightning.reference.LiveReference",
            )

    def prepare(self, target: nn.Module, windows: Tensor, forward: Forward, batch_size: int) -> None:
        """Compute the logits of all windows."""
        self._logits = None
        device = next(target.parameters()).device
        for start in tqdm(range(0, len(windows), batch_size), desc="target's logits", leave=False):
            with torch.no_grad():
                part = forward(target, windows[start : start + batch_size].to(device)).cpu()
            if self._logits is None:
                self._logits = part.new_empty(len(windows), *part.shape[1:])
            self._logits[start : start + batch_size] = part

    def logits(self, batch: TokenBatch) -> Tensor:
        assert self._logits is not None
        return self._logits[batch.window.cpu()].to(batch.input_ids.device)

