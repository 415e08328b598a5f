"""Optimizer steps on 16-bit weights that are held in float32, because the device multiplies nothing narrower."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class OnStoredWeights(torch.optim.Optimizer):
    """Set before an optimizer in the order of base classes: it sees weights and gradients in the stored dtype.

    So storage and rounding are those of 16-bit weights, whatever multiplies them: after a step every weight is
    again a value of its ``stored_dtype``. Gradients are rounded once; products in 16 bits round at every layer.

    Args:
        parameters: those with a ``stored_dtype`` are held in a wider one; others are stepped on directly.
        options: the optimizer's own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        held = list(parameters)
        stored = [_stored(parameter) for parameter in held]
        self._widened = [pair for pair in zip(held, stored, strict=True) if pair[0] is not pair[1]]
        super().__init__(stored, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, on what the weights are now: they may have been loaded since."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for held, stored in self._widened:
            stored.copy_(held)
            stored.grad = None if held.grad is None else held.grad.to(stored.dtype)
        super().step()
        for held, stored in self._widened:
            held.copy_(stored)
            stored.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of the weights that are multiplied; those of the stored ones never outlive a step."""
        super().zero_grad(set_to_none)
        for held, _ in self._widened:
            held.grad = None


def _stored(parameter: nn.Parameter) -> nn.Parameter:
    dtype = getattr(parameter, "stored_dtype", None)
    return parameter if dtype is None else nn.Parameter(parameter.detach().to(dtype))
