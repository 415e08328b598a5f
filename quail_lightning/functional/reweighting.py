"""Gradient ascent whose tokens are weighted by how likely they still are."""

from __future__ import annotations

from torch import Tensor


def reweighted_ascent(log_likelihood: Tensor, saturation: float, importance: float = 0.0) -> Tensor:
    """p^β1 · (1 − p)^β2 · log p of each token, p being its probability; no gradient flows through the weight.

    With β2 = 0 this is WGA (Wang et al. 2025, "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go
    Beyond"), with both SatImp (Yang et al. 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM
    Unlearning"). The gradient, p^β1 (1 − p)^β2 ∇log p, vanishes as a token is forgotten.

    Args:
        log_likelihood: [...] log p of the true tokens, nats; 0 where there is none, which gives 0.
        saturation: β1, at least 0; larger lets go of forgotten tokens earlier.
        importance: β2, at least 0; larger leaves tokens alone that the model is sure of.

    Returns:
        [...] nats.
    """
    fixed = log_likelihood.detach()
    weight = (saturation * fixed).exp() * (-fixed.expm1()) ** importance
    return weight * log_likelihood
