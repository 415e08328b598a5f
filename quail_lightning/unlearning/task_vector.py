"""Unlearning by weight arithmetic instead of by the trained weights themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from quail_lightning.errors import InputError


@dataclass(frozen=True)
class TaskVector:
    """Negated task vector (Ilharco et al. 2023): θ_u = θ_target − scale · (θ − θ_target).

    Training makes θ know the forget set even better (``GradientDescent`` as the forget term, no retain term); what
    is evaluated and saved is the target moved the opposite way. `quail test` takes a saved model as it is;
    `train/` and `val/` figures are those of the trained weights.

    Attributes:
        scale: larger forgets more.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise InputError("a task vector's scale must be positive and finite", given=self.scale)

    def negated(self, trained: Tensor, target: Tensor) -> Tensor:
        """One weight of the unlearned model, in float32."""
        target = target.float()
        return target - self.scale * (trained.float() - target)
