"""QUAIL's hinge on the logits."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.hinge import HingeForm, hinge
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.measured_step import MeasuredStep
from quail_lightning.objectives.term import Needs, TermInputs, of_target


class LogitHinge:
    """QUAIL's quantization-aware hinge on the forget set (Eq. 14, averaged as in Eq. 18), in all forms of X-B.

    Args:
        step: Δ_q in logits, 1.0 in the paper; larger asks for a larger distance from the target. Or how to
            measure it.
        form: ``hinge``, ``smooth``, ``quadratic``, ``exponential``; see ``functional.hinge``.
        softness: β of ``smooth``, logits (0.1 where not given).
        rate: λ of ``exponential``, per logit (1 where not given).
        dead_zone: differences of at most this many logits count as none: at step 0 they are rounding noise. 0 is
            Eq. 14 to the letter. Under bfloat16 arithmetic logits near 16 step by 0.125.
        centred: do not reward adding one number to all logits.
    """

    short = "quail"

    def __init__(
        self,
        step: float | MeasuredStep = 1.0,
        form: HingeForm = "hinge",
        softness: float | None = None,
        rate: float | None = None,
        dead_zone: float = 1e-3,
        centred: bool = False,
    ) -> None:
        if not isinstance(step, MeasuredStep):
            _positive("step (Δ_q, in logits)", step)
        for name, value, owner in (("softness", softness, "smooth"), ("rate", rate, "exponential")):
            if value is None:
                continue
            _positive(name, value)
            if form != owner:
                raise InputError(f"{name} belongs to form {owner!r}; the form is {form!r}", given=value)
        if not 0 <= dead_zone < math.inf:
            raise InputError("the hinge's dead_zone must be 0 or a positive number of logits", given=dead_zone)
        self.step, self.form, self.dead_zone, self.centred = step, form, dead_zone, centred
        self.softness, self.rate = softness or 0.1, rate or 1.0

    @property
    def needs(self) -> Needs:
        """The hinge of every token, which reads the target's logits."""
        return Needs(tokens=(self._hinge,), frozen=frozenset({"logits"}))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean hinge over the real tokens, in logits; see ``functional.hinge`` for its gradient at equality."""
        return mean_over_real(inputs.tokens[0], inputs.labels)

    def _hinge(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        assert not isinstance(self.step, MeasuredStep), "measured before training"
        return hinge(
            logits,
            of_target(reference, "the hinge"),
            self.step,
            form=self.form,
            softness=self.softness,
            rate=self.rate,
            dead_zone=self.dead_zone,
            centred=self.centred,
        )


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"the hinge's {name} must be positive and finite", given=value)
