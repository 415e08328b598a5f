"""Learning a distribution in which the true token has lost probability."""

from __future__ import annotations

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import IGNORED, token_log_likelihood


def lowered_distillation(logits: Tensor, labels: Tensor, teacher: Tensor, strength: float) -> Tensor:
    """Cross-entropy −Σ_k q_k log p_k towards q = softmax(teacher − strength · onehot(true token)).

    UNDIAL (Dong et al. 2024) with the frozen target as teacher; CE-U (Yang 2025) with the model itself and an
    infinite strength, by which the true token has no probability left. The gradient in the logits is p − q.

    Args:
        logits: [..., vocabulary] of p, the model being unlearned.
        labels: [...] the true tokens, aligned; where ``IGNORED`` the value is 0.
        teacher: [..., vocabulary]; no gradient flows into it.
        strength: logits by which the true token's is lowered.

    Returns:
        [...] nats, at least float32; no less than the entropy of q.
    """
    if logits.dtype != torch.float64:
        logits, teacher = logits.float(), teacher.float()
    index = labels.clamp(min=0).unsqueeze(-1)
    lowered = teacher.detach().scatter_add(-1, index, teacher.new_full(index.shape, -strength))
    return -(lowered.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1) * (labels != IGNORED)


def similar_label_likelihood(logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """log p of the similar label: the token that the teacher scores highest beside the true one.

    Args:
        logits: [..., vocabulary] of p, the model being unlearned.
        labels: [...] the true tokens, aligned; where ``IGNORED`` the value is 0.
        teacher: [..., vocabulary] of the frozen target.

    Returns:
        [...] nats, at least float32.
    """
    others = teacher.scatter(-1, labels.clamp(min=0).unsqueeze(-1), -torch.inf)
    return token_log_likelihood(logits, others.argmax(dim=-1).where(labels != IGNORED, IGNORED))
