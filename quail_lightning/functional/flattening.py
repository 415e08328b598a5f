"""Flattening the logits, so that no token is preferred to another."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.functional.token_likelihood import IGNORED, widened


def squared_margin(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """(max_k z_k − mean_k z_k)² of each token's logits z: 0 where the distribution is uniform, and only there.

    Entesari et al. 2025, "Constrained Entropic Unlearning". Unlike the KL to uniform, its gradient grows with the
    margin. The true token is not looked at.

    Args:
        logits: [..., vocabulary].
        labels: [...]; where ``IGNORED`` the value is 0.
        reference: not read.

    Returns:
        [...] squared logits, at least float32.
    """
    logits = widened(logits)
    return (logits.amax(dim=-1) - logits.mean(dim=-1)).square() * (labels != IGNORED)
