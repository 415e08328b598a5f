"""Pruning by magnitude: the smallest weights become zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from quail_lightning.attacks.protocol import PreTrainedModel, Progress, Texts
from quail_lightning.errors import InputError, check_choice
from quail_lightning.models.casting import as_deployed, copy_with
from quail_lightning.quantization.body_weights import body_weights, matrices, matrix_names

Scope = Literal["layer", "global"]


class Prune:
    """Sets the smallest magnitudes of the body's weight matrices to zero, without any text.

    What is pruned is what quantizers quantize: linear and Conv1D layers and every expert of a stack; embeddings,
    head, norms, biases and routers stay. The count is exact: of n weights ⌊fraction · n⌋ become zero; among equal
    magnitudes the first ones, row by row.

    Args:
        fraction: share of the weights, in (0, 1).
        scope: ``layer``: the share of every matrix by itself, as the magnitude baseline of SparseGPT and Wanda
            does; ``global``: of all of them together, which empties layers of small weights.

    Raises:
        InputError: a fraction outside (0, 1).
    """

    version = 1
    reads: tuple[str, ...] = ()
    bits_in_memory = 16

    def __init__(self, fraction: float, scope: Scope = "layer") -> None:
        if not 0 < fraction < 1:
            raise InputError("prune: fraction must lie in (0, 1)", given=fraction, remedy="0.3 prunes 30 %")
        check_choice("prune: scope", scope, ("layer", "global"))
        self.fraction, self.scope = fraction, scope

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Attack.targets``."""
        return matrix_names(model)

    def attack(self, model: PreTrainedModel, texts: Texts, progress: Progress | None = None) -> PreTrainedModel:
        """See ``Attack.attack``."""
        chosen = set(self.targets(model))
        layouts = {id(each.parameter): each.layout for each in body_weights(model) if each.name in chosen}
        # by identity: a weight that two layers share is one parameter
        copied = copy_with(model, lambda _, weight: weight.clone())
        found = [
            matrices(own.detach(), layouts[id(weight)])
            for weight, own in zip(model.parameters(), copied.parameters(), strict=True)
            if id(weight) in layouts
        ]
        pieces = [matrix for stacked in found for matrix in stacked]
        for group in [pieces] if self.scope == "global" else [[piece] for piece in pieces]:
            zero_smallest(group, int(self.fraction * sum(piece.numel() for piece in group)))
        return as_deployed(copied, model.dtype)


def zero_smallest(matrices: Sequence[Tensor], count: int) -> None:
    """Set the ``count`` smallest magnitudes of all matrices together to zero, in place.

    Args:
        matrices: float tensors of any shapes, contiguous or not.
        count: exact; among equal magnitudes the first, in the order of the matrices and row by row.
    """
    if count == 0:
        return
    largest = _magnitude(matrices, count)
    left = count - _fewer_than(matrices, largest)  # of those that are as large as the largest
    for matrix in matrices:
        sizes = _bits(matrix)
        at = sizes == largest
        first = at & (at.flatten().cumsum(0).view(at.shape) <= left)
        left -= int(first.sum())
        matrix[first | (sizes < largest)] = 0


def _magnitude(matrices: Sequence[Tensor], count: int) -> int:
    """The count-th smallest magnitude, as the bits of a float32: their order is that of the magnitudes.

    By bisection: of 7 billion weights no sorted copy, and no list of all magnitudes, is made.
    """
    low, high = 0, 2**31 - 1
    while low < high:
        middle = (low + high) // 2
        if _fewer_than(matrices, middle + 1) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def _fewer_than(matrices: Sequence[Tensor], bits: int) -> int:
    return sum(int((_bits(matrix) < bits).sum()) for matrix in matrices)


def _bits(matrix: Tensor) -> Tensor:
    return matrix.float().abs().contiguous().view(torch.int32)
