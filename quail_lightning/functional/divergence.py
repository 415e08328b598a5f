"""Kullback–Leibler divergence between two models' next-token distributions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["unlearned-target", "target-unlearned"]


def kl_divergence(logits: Tensor, reference: Tensor, direction: Direction = "unlearned-target") -> Tensor:
    """KL of the distributions that two logit vectors stand for.

    ``unlearned-target`` is KL(p' ‖ p) = Σ_k p'_k (log p'_k − log p_k), Eq. 10 of "Catastrophic Failure ...";
    ``target-unlearned`` is KL(p ‖ p'). Both, and their gradients, are 0 where the distributions agree.

    Args:
        logits: [..., vocabulary] of p', the model being unlearned.
        reference: [..., vocabulary] of p, the frozen target; no gradient flows into it.
        direction: which of the two.

    Returns:
        [...] nats, at least float32.
    """
    if logits.dtype != torch.float64:
        logits, reference = logits.float(), reference.float()
    unlearned, target = logits.log_softmax(dim=-1), reference.detach().log_softmax(dim=-1)
    first, second = (unlearned, target) if direction == "unlearned-target" else (target, unlearned)
    # The two sums of probabilities cancel; without them the gradient at equality is that of their rounding, 1e-7,
    # which AdamW would blow up.
    probability = first.exp()
    return (probability * (first - second) - probability + second.exp()).sum(dim=-1)
