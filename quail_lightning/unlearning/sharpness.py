"""Sharpness-aware minimization: the forget gradient is taken where the forget loss is worst nearby."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.unlearning.optimizers import WeightPrecision
from quail_lightning.unlearning.sharding import gradient_norm, multiply_gradients, sum_gradients


@dataclass(frozen=True)
class Sam:
    """SAM on the forget side (Fan et al. 2025, "Towards LLM Unlearning Resilient to Relearning Attacks").

    g = ∇L_f(θ + ρ · ∇L_f(θ) / ‖∇L_f(θ)‖), L_f being forget and hinge term as they are weighted. As in the
    authors' code the retain gradient is taken at θ itself, also where both enter one step (``joint``). A forget
    step costs two gradients, and a copy of the trained weights.

    Attributes:
        rho: ρ, L2 norm of all trained weights' perturbation together; the authors' 0.01 on MUSE, 0.1 on WMDP.

    Raises:
        InputError: ρ is no positive number.
    """

    rho: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.rho < math.inf:
            raise InputError(
                "model.sam.rho must be a positive number", given=self.rho, remedy="model.sam: null is without SAM"
            )


def check_sam(sam: Sam | None, weight_precision: WeightPrecision) -> None:
    """Refuse SAM where the perturbation would be rounded away.

    Raises:
        InputError: the weights are bfloat16.
    """
    if sam is not None and weight_precision != "float32":
        raise InputError(
            "SAM moves each of n weights by about ρ / √n (1e-7 of 7e9), which is below half an ulp of a bfloat16 "
            "weight and would be lost",
            given=f"model.sam: {sam}, model.weight_precision: {weight_precision}",
            remedy="Set model.weight_precision: float32",
        )


def rounded_perturbation(sam: Sam | None, precision: Any) -> list[str]:
    """A sentence where autocast rounds some of the perturbation away."""
    if sam is None or precision != "bf16-mixed":
        return []
    return [
        "model.sam moves each weight by less than bf16-mixed resolves: its products feel what crosses a rounding "
        "edge, in the mean all of it, at a 16-bit start less. trainer.precision: 32-true feels every move."
    ]


@contextmanager
def perturbed(
    sam: Sam, parameters: Iterable[nn.Parameter], masks: Mapping[Any, Tensor], sharded: bool
) -> Iterator[None]:
    """Inside, the weights are ρ · g / ‖g‖ further, g being the gradient that they hold; it is cleared.

    Afterwards they are what they were, bit for bit. Where g is 0 nothing moves.

    Args:
        sam: with ρ.
        parameters: of the model, with this process's gradients.
        masks: gradient factors of weights that are trained in part (SURE by head).
        sharded: FSDP2 has summed the gradients in the backward pass.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    sum_gradients(trained, sharded)
    multiply_gradients(masks)
    norm = float(gradient_norm(trained))
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            if parameter.grad is not None and norm:
                parameter.add_(parameter.grad, alpha=sam.rho / norm)
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(trained, kept, strict=True):
                parameter.copy_(value)
