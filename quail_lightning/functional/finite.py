"""Whether a tensor holds neither NaN nor infinity."""

from __future__ import annotations

import torch
from torch import Tensor


def is_finite(weight: Tensor) -> bool:
    """One pass without a temporary: the smallest and the largest value are finite, and NaN is both of them."""
    return not weight.numel() or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(weight))
