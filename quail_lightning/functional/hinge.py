"""The quantization-aware hinge (QUAIL, section VI) and its other forms (section X-B)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

HingeForm = Literal["hinge", "smooth", "quadratic", "exponential"]


def hinge(
    values: Tensor,
    reference: Tensor,
    step: float,
    *,
    form: HingeForm = "hinge",
    softness: float = 0.1,
    rate: float = 1.0,
    dead_zone: float = 0.0,
    centred: bool = False,
) -> Tensor:
    """How far ``values`` stay within Δ_q/2 of ``reference``, averaged over the last axis.

    With d = |z'_k − z_k| and the slack s = Δ_q/2 − d, the mean over k of

    ============  =====================  ==================================
    form          per entry              source
    ============  =====================  ==================================
    hinge         max(0, s)              Eq. 14
    smooth        β · log(1 + exp(s/β))  X-B, softplus; tends to the hinge as β → 0
    quadratic     max(0, s)²             X-B
    exponential   exp(λ · s)             X-B; never lets go, however large d is
    ============  =====================  ==================================

    All are largest where ``values`` equal ``reference``, and there they have no gradient: |·| has none at 0,
    and 0 is what is taken. So at step 0, when the unlearned model *is* the target, the hinge alone moves
    nothing; it acts as soon as another term has moved the logits. Where the two differ only by rounding (a
    reference computed in another batch or dtype) its direction would be that of the noise: ``dead_zone`` counts
    such entries as equal.

    Args:
        values: [..., K] z', of the model being unlearned: logits, or a layer's output.
        reference: [..., K] z, of the frozen target; no gradient flows into it.
        step: Δ_q, in units of ``values``; the margin is half of it.
        form: see above.
        softness: β of ``smooth``, in units of ``values``.
        rate: λ of ``exponential``, per unit of ``values``.
        dead_zone: differences of at most this count as 0, in units of ``values``.
        centred: take the mean over k off the difference first. Adding one number to all logits changes no
            probability, and satisfies the plain hinge.

    Returns:
        [...] at least float32.
    """
    if values.dtype != torch.float64:
        values, reference = values.float(), reference.float()
    difference = values - reference.detach()
    if centred:
        difference = difference - difference.mean(dim=-1, keepdim=True)
    distance = difference.abs()
    if dead_zone:
        distance = distance.masked_fill(distance <= dead_zone, 0.0)
    slack = step / 2 - distance
    if form == "smooth":
        return softness * softplus(slack / softness).mean(dim=-1)
    if form == "exponential":
        return (rate * slack).exp().mean(dim=-1)
    within = slack.clamp(min=0)
    return (within.square() if form == "quadratic" else within).mean(dim=-1)
