"""The retain loss as a constraint: its weight is a dual variable that grows while the constraint is broken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from quail_lightning.errors import InputError
from quail_lightning.objectives import Term


def dual_step(value: float, step_size: float, loss: float, epsilon: float) -> float:
    """λ ← max(0, λ + η · (L_retain − ε)).

    Args:
        value: λ.
        step_size: η.
        loss: L_retain.
        epsilon: ε.
    """
    return max(0.0, value + step_size * (loss - epsilon))


@dataclass(frozen=True)
class Dual:
    """Forget as much as L_retain ≤ ε allows (PDU; Entesari et al. 2025, "Constrained Entropic Unlearning").

    L = L_forget + λ · (L_retain − ε), with λ in the place of α, whose value it starts with; see ``dual_step``.

    Attributes:
        epsilon: ε, the retain loss that is allowed, in the retain term's units (GradientDescent: nats a token).
        step_size: η, open-unlearning's 1; larger answers a broken constraint sooner.
        update: ``step``: after each batch, from its retain loss; ``epoch``: after each epoch, from the mean of
            its batches' (open-unlearning runs over the set once more).
        warmup_epochs: in which λ stays at its first value.

    Raises:
        InputError: naming the number that is outside its range.
    """

    epsilon: float
    step_size: float = 1.0
    update: Literal["step", "epoch"] = "step"
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if not -math.inf < self.epsilon < math.inf:
            raise InputError("model.dual.epsilon must be a finite number", given=self.epsilon)
        if not 0 < self.step_size < math.inf:
            raise InputError("model.dual.step_size must be a positive number", given=self.step_size)
        if self.warmup_epochs < 0:
            raise InputError("model.dual.warmup_epochs must be 0 or more epochs", given=self.warmup_epochs)


@dataclass
class Multiplier:
    """λ as it is now.

    Attributes:
        value: λ.
        total: retain losses of the epoch's batches so far, summed.
        count: of those batches.
    """

    value: float
    total: float = 0.0
    count: int = 0

    def after_batch(self, dual: Dual, loss: float | None, epoch: int, ends_epoch: bool) -> float:
        """Update λ where that is due; its value.

        Args:
            dual: says when, and by how much.
            loss: the batch's retain loss, of all processes; None where it had none.
            epoch: of the batch, from 0.
            ends_epoch: whether it is the epoch's last.
        """
        if loss is not None:
            self.total, self.count = self.total + loss, self.count + 1
            if dual.update == "step" and epoch >= dual.warmup_epochs:
                self.value = dual_step(self.value, dual.step_size, loss, dual.epsilon)
        if ends_epoch:
            if dual.update == "epoch" and epoch + 1 >= dual.warmup_epochs and self.count:
                self.value = dual_step(self.value, dual.step_size, self.total / self.count, dual.epsilon)
            self.total, self.count = 0.0, 0
        return self.value


def check_dual(dual: Dual | None, retain: Term | None, weighting: str) -> None:
    """Refuse a constraint on nothing.

    Raises:
        InputError: there is no retain term, or α is a share of both terms.
    """
    if dual is None:
        return
    if retain is None:
        raise InputError(
            "model.dual holds the retain loss below ε, and there is no retain term",
            remedy="Set model.retain, such as quail_lightning.objectives.GradientDescent",
        )
    if weighting != "additive":
        raise InputError(
            "model.dual's λ takes the place of α as the retain term's own weight",
            given=f"model.weighting: {weighting}",
            allowed="additive",
        )
