"""From final hidden states to logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import widened


class Head(NamedTuple):
    """The output head: z = softcap · tanh(scale · (W h + b) / softcap).

    Attributes:
        weight: [vocabulary, width] W.
        bias: [vocabulary] b, if it has one.
        scale: factor on the logits (Cohere, Granite); 1 for most models.
        softcap: bound on the logits (Gemma 2), if it has one.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def cast(self, dtype: torch.dtype) -> Head:
        """The same head with its matrix in ``dtype``."""
        return self._replace(weight=self.weight.to(dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocabulary] logits of hidden states [..., width], at least float32.

        The product runs in the matrix's dtype, everything after it in float32 or float64.
        """
        return self.finish(hidden.to(self.weight.dtype) @ self.weight.T)

    def finish(self, product: Tensor) -> Tensor:
        """What follows the product W h."""
        logits = widened(product)
        if self.bias is not None:
            logits = logits + self.bias.to(logits.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap
