"""The quantization-aware hinge on logits (QUAIL, section VI)."""

from __future__ import annotations

import torch
from torch import Tensor


def logit_hinge(logits: Tensor, reference: Tensor, step: float) -> Tensor:
    """QUAIL Eq. 14: mean over k of max(0, Δ_q/2 − |z'_k − z_k|).

    The loss is largest where ``logits`` equal ``reference``, and there it has no gradient: |·| has none at
    0, and 0 is what is taken. So at step 0, when the unlearned model *is* the target, the hinge alone moves
    nothing; it acts as soon as another term has moved the logits. Where the two differ only by rounding (a
    reference computed in another batch or dtype), its direction is that of the rounding noise.

    Args:
        logits: [..., vocabulary] z', of the model being unlearned.
        reference: [..., vocabulary] z, of the frozen target; no gradient flows into it.
        step: Δ_q, in logits; the margin is half of it.

    Returns:
        [...] hinge values, at least float32, each between 0 and ``step / 2``.
    """
    if logits.dtype != torch.float64:
        logits, reference = logits.float(), reference.float()
    return (step / 2 - (logits - reference.detach()).abs()).clamp(min=0).mean(dim=-1)
