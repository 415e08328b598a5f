"""Weights that can be moved just across the nearest boundary of a format: what each gains, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.quantization.body_weights import matrices
from quail_lightning.quantization.rounded_weights import FittedMatrix, WeightLevels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REACH = 0.2  # of its bucket: a weight that is no farther from the boundary may cross it
MARGIN = 0.02  # of its bucket: how far behind the boundary it goes
MOST = 1 / 64  # of a matrix's weights


class Slopes(NamedTuple):
    """How the likelihoods of both sets change with weights: name of the weight → a tensor of its shape.

    Attributes:
        forget: ∂N_f/∂w of the mean forget NLL, nats a token and unit of weight.
        retain: ∂N_r/∂w of the mean retain NLL.
        curvature: the mean over retain windows of the squared gradient of a window's NLL, the diagonal of the
            empirical Fisher matrix.
    """

    forget: Mapping[str, Tensor]
    retain: Mapping[str, Tensor]
    curvature: Mapping[str, Tensor]


class Moves(NamedTuple):
    """Weights and where they may go; all tensors are [n].

    Attributes:
        matrix: number of the matrix, in the order of ``WeightLevels.fitted``, int64.
        position: in the matrix, row by row, int64.
        value: behind the boundary, float32; exact in the dtype that the weights are stored in.
        gain: that the quantized model's forget NLL rises by, to first order, nats a token.
        cost: that its retain NLL rises by, to second order.
    """

    matrix: Tensor
    position: Tensor
    value: Tensor
    gain: Tensor
    cost: Tensor

    @property
    def size(self) -> int:
        """n."""
        return len(self.gain)

    def chosen(self, which: Tensor) -> Moves:
        """Some of them, by number or mask."""
        return Moves(*(each[which] for each in self))

    def cheapest(self, gain: float) -> Moves:
        """Those with the most gain for their cost that together gain as much, or all of them."""
        order = (self.gain / self.cost).argsort(descending=True)
        reached = self.gain[order].double().cumsum(0)
        return self.chosen(order[: int(torch.searchsorted(reached, gain)) + 1])


def moves_across(model: PreTrainedModel, levels: WeightLevels, dtype: torch.dtype, slopes: Slopes) -> Moves:
    """What can be moved, of the weights that the slopes name.

    A weight w with the quantized value q may go to the next value q′ towards higher forget NLL, where the boundary
    (q + q′) / 2 is near and the retain set takes no harm: g · (q′ − q) > 0 and r · (q′ − q) ≤ 0 for the slopes g
    and r of the two sets at the quantized weights. It gains g · (q′ − q), and costs F · (q′ − q)² / 2 for its
    curvature F. About what an average weight of its matrix would cost, mean F times mean (q′ − q)² / 2, is added
    to each: no weight is thought free that few windows use, and a few large moves do not give way to thousands of
    small ones. A matrix that no retain window reaches is left out: nothing says what a move there would cost.

    Args:
        model: with the weights that are to be quantized, on any device.
        levels: of the format.
        dtype: that the weights are stored in.
        slopes: at the quantized weights.
    """
    first: dict[str, int] = {}
    for number, (name, _) in enumerate(_matrices(model, levels)):
        first.setdefault(name, number)
    found = []
    for name, weight, parts in levels.fitted(model, slopes.forget):
        of_parts = [matrices(each[name].to(weight.device), levels.layouts[name]) for each in slopes]
        for place, (part, *own) in enumerate(zip(parts, *of_parts, strict=True), first[name]):
            found.append(_across(place, part, own, dtype))
    return joined_moves(found)


def joined_moves(several: Iterable[Moves]) -> Moves:
    """All of several, which name different weights."""
    return Moves(*(torch.cat(fields) for fields in zip(*several, strict=True)))


def exchange(model: PreTrainedModel, levels: WeightLevels, moves: Moves) -> Moves:
    """Give weights the moves' values, in place.

    Returns:
        the same with what the weights were: exchanged again, it undoes the first.
    """
    before = moves.value.clone()
    for number, (_, matrix) in enumerate(_matrices(model, levels)):
        here = (moves.matrix == number).nonzero().flatten()
        if len(here):
            places = moves.position[here].to(matrix.device)
            rows, columns = places // matrix.shape[-1], places % matrix.shape[-1]
            before[here] = matrix[rows, columns].float().cpu()
            matrix[rows, columns] = moves.value[here].to(matrix.device, matrix.dtype)
    return moves._replace(value=before)


def _matrices(model: PreTrainedModel, levels: WeightLevels) -> Iterator[tuple[str, Tensor]]:
    """Each matrix of a model's quantized weights, with its weight's name, in the order that moves number them."""
    for name, layout in levels.layouts.items():
        for matrix in matrices(model.get_parameter(name).detach(), layout):
            yield name, matrix


def _across(number: int, part: FittedMatrix, slopes: Sequence[Tensor], dtype: torch.dtype) -> Moves:
    """Of one matrix; ``slopes``: of it, in the order of ``Slopes``."""
    forget, retain, curvature = slopes
    weight, towards = part.matrix, forget.sign()
    own = part.index(weight)
    value, width = part.value(own), part.width(own)
    other = part.index(weight + towards * REACH * width)
    jump = part.value(other) - value
    behind = ((part.value(other) + value) / 2 + towards * MARGIN * width).to(dtype).float()
    gain, square = forget * jump, jump.square()
    arrives = (part.index(behind) == other).view_as(weight)  # once rounded to the dtype
    cost = (curvature * square + curvature.mean() * square.mean()) / 2
    free = (gain > 0) & (retain * jump <= 0) & ((behind - weight) * towards > 0) & arrives & (cost > 0)
    worth = torch.where(free, gain / cost, 0.0).flatten()
    best = worth.topk(min(len(worth), math.ceil(len(worth) * MOST)))
    position = best.indices[best.values > 0]
    picked = (each.flatten()[position].cpu() for each in (behind, gain, cost))
    return Moves(torch.full_like(position, number, device="cpu"), position.cpu(), *picked)
