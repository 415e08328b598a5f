"""What is quantized: the linear layers of the body, and nothing else (QUAIL VII-C2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantized_linears(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """Every ``nn.Linear`` except the output head, with its name, in the model's order.

    Embeddings, norms and biases stay in full precision. Fused layers that are no ``nn.Linear`` (GPT-2's
    ``Conv1D``, stacked experts) are not listed.

    Raises:
        InputError: there is none.
    """
    head = model.get_output_embeddings()
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    if not linears:
        raise InputError(
            f"{type(model).__name__} has no nn.Linear besides its output head, so there is nothing to quantize",
            remedy="Use precision bf16 for this architecture",
        )
    return linears


def refuse_non_finite(linears: list[tuple[str, nn.Linear]]) -> None:
    """Refuse NaN and infinity, which would spread over every weight that shares a scale.

    Raises:
        InputError: naming every weight concerned.
    """
    broken = [
        f"{name}.weight"
        for name, linear in linears
        if not all(torch.isfinite(bound) for bound in torch.aminmax(linear.weight.detach()))
    ]
    if broken:
        raise InputError(
            f"weights to be quantized must be finite; NaN or infinity in {', '.join(broken)}",
            remedy="The training that made this model diverged: go back to an earlier checkpoint",
        )
