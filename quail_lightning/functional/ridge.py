"""The edit of a linear layer that does on some inputs what another does, and on others as little as it can."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_projection(forget: Tensor, retain: Tensor | None, retain_weight: float, ridge: float) -> Tensor:
    """P = C_f (C_f + μ C_r + λI)⁻¹: of a change D of a layer, D·P is the edit E that minimizes

    mean over forget inputs |E k − D k|² + μ · mean over retain inputs |E k|² + λ · |E|²

    With residuals R = D K_f that is R K_fᵀ (K_f K_fᵀ + μ K_r K_rᵀ + λI)⁻¹, the closed form of MEMIT (Meng et al.
    2023, Eq. 14). Its rank is at most the number of forget inputs.

    Args:
        forget: C_f [inputs, inputs], the mean of k kᵀ over the layer's inputs k on the forget set.
        retain: C_r likewise, of the retain set; None leaves it out.
        retain_weight: μ.
        ridge: λ as a share of the mean eigenvalue of C_f; above 0.

    Returns:
        [inputs, inputs] float64.
    """
    forget = forget.double()
    damped = forget.clone()
    if retain is not None:
        damped += retain_weight * retain.double()
    mean = float(forget.diagonal().mean())
    damped.diagonal().add_(ridge * mean or 1.0)  # inputs that are all 0 edit nothing
    return torch.linalg.solve(damped, forget).T.contiguous()  # both are symmetric: P = (M⁻¹ C_f)ᵀ
