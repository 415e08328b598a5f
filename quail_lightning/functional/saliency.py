"""Which modules matter most for the forget loss (SURE, "Catastrophic Failure ...", Eq. 4 and 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from quail_lightning.errors import InputError


def saliency_threshold(scores: Mapping[str, float], percentile: float) -> float:
    """γ = Percentile(s, p), linearly interpolated between the scores.

    Args:
        scores: s_i by module; at least one.
        percentile: p, between 0 and 100, both excluded.

    Raises:
        InputError: a percentile outside (0, 100), or a score that is not finite.
    """
    if broken := [module for module, score in scores.items() if not math.isfinite(score)]:
        raise InputError(
            f"the forget loss has no finite gradient in {', '.join(broken[:3])}",
            remedy="The checkpoint holds NaN or infinity, or the loss overflows",
        )
    if not 0 < percentile < 100:
        raise InputError("the percentile of the saliency scores must lie in (0, 100)", given=percentile)
    return torch.tensor(list(scores.values()), dtype=torch.float64).quantile(percentile / 100).item()


def block_norms(gradient: Tensor, blocks: int, dim: int) -> Tensor:
    """Frobenius norm of each of ``blocks`` equal parts of a gradient along ``dim``: [blocks], float32.

    ``blocks`` divides the gradient's size along ``dim``. Worked shape: the query projection's gradient
    [heads · d, width], split along 0 → [heads].
    """
    assert gradient.shape[dim] % blocks == 0
    parts = gradient.float().movedim(dim, 0).reshape(blocks, -1)
    return parts.square().sum(dim=1).sqrt()
