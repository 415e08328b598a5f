"""From the weights that are trained to those that are deployed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from quail_lightning.functional.rounding import round_stochastically
from quail_lightning.models.sharded import own_rows, share
from quail_lightning.run.seeds import named_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rounding = Literal["stochastic", "nearest"]


def default_rounding(stored: object) -> Rounding:
    """The rounding that loses nothing: ``stochastic`` where all weights started as values of 16 bits.

    Args:
        stored: dtype of the checkpoint that was started from; None where its config names none.
    """
    return "stochastic" if stored in (torch.bfloat16, torch.float16) else "nearest"


@dataclass(frozen=True)
class Cast:
    """Casts weights to the dtype in which they are deployed.

    A 16-bit checkpoint starts every weight at the centre of its rounding cell, so ``nearest`` rolls back all that
    moved less than half a step, and quantization sees nothing of it either. ``stochastic`` keeps it in the mean
    over many weights. Its draws follow from the seed, the weight's name and the place in it alone: the copy is the
    same every time, on every device and however the weight is spread over processes.

    Attributes:
        dtype: of the result.
        rounding: where ``dtype`` is narrower than the weight.
        seed: of the draws.
    """

    dtype: torch.dtype
    rounding: Rounding = "nearest"
    seed: int = 0

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """A new tensor, of a sharded weight one that is spread alike.

        Args:
            name: of the weight within its model.
            weight: whole or sharded; unchanged.
        """
        if self.rounding == "nearest" or self.dtype.itemsize >= weight.dtype.itemsize:
            return weight.to(self.dtype, copy=True)
        key = named_key(self.seed, name)
        row = weight.shape[1:].numel()  # of the shape alone: to index a sharded weight would gather it
        rounded = round_stochastically(share(weight), self.dtype, key, own_rows(weight).start * row)
        if not isinstance(weight, DTensor):
            return rounded
        mesh, places = weight.device_mesh, weight.placements
        return DTensor.from_local(rounded, mesh, places, shape=weight.shape, stride=weight.stride())


def copy_with(model: PreTrainedModel, value: Callable[[str, Tensor], Tensor]) -> PreTrainedModel:
    """A copy of a whole model whose weights are new ones; buffers, tied weights and modes as they are.

    Weights enter the copy as they are to be: a plain copy first would hold the model twice.

    Args:
        model: unchanged.
        value: a weight's name and the weight → a new tensor in its place.
    """
    weights: dict[int, Any] = {
        id(weight): nn.Parameter(value(name, weight.detach()), requires_grad=weight.requires_grad)
        for name, weight in model.named_parameters()
    }
    return copy.deepcopy(model, weights)


def as_deployed(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy that is to be deployed, in evaluation mode and without gradients; in place.

    Args:
        model: with its weights in ``dtype``.
        dtype: noted in its config.
    """
    model.config.dtype = dtype
    if model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()
    return model.requires_grad_(False).eval()
