"""The three uniform grids of the papers: step, index, rounding, straight-through.

One implementation serves the quantizers and the bucket analysis: ``reference_grid.index(other_weight)`` counts
another model's weights on the reference's grid. Written for N bits, that is 2^N levels, Δ the step:

==============  ==========================================  ================================  =================
kind            Δ                                           index (clamped to the 2^N)        value
==============  ==========================================  ================================  =================
minmax-floor    (max − min) / 2^N                           ⌊(w − min) / Δ⌋, from 0           (index + ½)·Δ + min
minmax-round    (max − min) / 2^N                           round((w − min) / Δ), from 0      index·Δ + min
symmetric       max|w| / 2^(N−1)                            round(w / Δ), from −2^(N−1)       index·Δ
==============  ==========================================  ================================  =================

Sources: QUAIL Eq. 2 and section V-A; QUAIL Eq. 7; Eq. 2 of the catastrophic-failure paper. ``round`` goes to the
even index at a tie. The clamp costs up to a whole step at the upper end of ``minmax-round`` and ``symmetric``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from quail_lightning.errors import InputError

GridKind = Literal["minmax-floor", "minmax-round", "symmetric"]
Granularity = Literal["global", "tensor", "channel", "group"]


@dataclass(frozen=True, eq=False)
class Grid:
    """A fitted grid; it may be asked about any weight of the shape it was fitted to.

    Arithmetic runs in float32 (float64 where the weight or the grid is float64), whatever the weight's dtype.

    Attributes:
        kind: which of the three formulas.
        bits: N; the grid has 2^N levels.
        step: Δ, in units of the weight: [] for one grid over the whole tensor, else [A, B/g] for groups of g
            inputs of a weight [A, B]; per output row g = B, so [A, 1]. 0 where the fitted group has no range.
        origin: the weight where counting starts, shaped like ``step``: min, or 0 for ``symmetric``.
    """

    kind: GridKind
    bits: int
    step: Tensor
    origin: Tensor

    @property
    def lowest(self) -> int:
        """The smallest index."""
        return -(2 ** (self.bits - 1)) if self.kind == "symmetric" else 0

    @property
    def highest(self) -> int:
        """The largest index."""
        return self.lowest + 2**self.bits - 1

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight.

        In a group without range (step 0) weights above the origin fall into the highest bucket, below it into
        the lowest, and equal ones into bucket 0.

        Args:
            weight: finite, of the fitted shape; of any shape if the grid has one step.

        Returns:
            int32, shaped like ``weight``, within ``lowest`` … ``highest``.

        Raises:
            InputError: the weight does not divide into the grid's groups.
        """
        offset = self._blocks(weight) - self._per_block(self.origin)
        return self._bucket(offset, self._per_block(self.step)).reshape(weight.shape)

    def zero(self) -> Tensor:
        """[groups] the bucket of the weight 0, int32."""
        return self._bucket(-self.origin, self.step).flatten()

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for, in the grid's dtype.

        Args:
            index: integers shaped like the weight.
        """
        blocks = self._blocks(index.to(self.step.dtype))  # a copy, which is written over
        if self.kind == "minmax-floor":
            blocks.add_(0.5)
        return blocks.mul_(self._per_block(self.step)).add_(self._per_block(self.origin)).reshape(index.shape)

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket, in the grid's dtype: the step, whatever the index.

        Args:
            index: integers shaped like the weight.
        """
        blocks = self._blocks(index.to(self.step.dtype))
        return self._per_block(self.step).expand_as(blocks).reshape(index.shape)

    def round(self, weight: Tensor) -> Tensor:
        """The weight after quantizing and dequantizing, in the weight's own dtype and shape.

        The result is cast back last, so a bfloat16 weight receives the bfloat16 number nearest to its level, not
        the level itself; up to 8 bits it keeps its index under ``symmetric``.
        """
        return self.value(self.index(weight)).to(weight.dtype)

    def _bucket(self, offset: Tensor, step: Tensor) -> Tensor:
        """Of weights less the origin; what is given is overwritten."""
        position = offset.div_(step)
        position = position.floor_() if self.kind == "minmax-floor" else position.round_()
        # 0 / 0 where a group has no range is its one value; the rest of such a group lies infinitely far
        return position.nan_to_num_(0.0).clamp_(self.lowest, self.highest).to(torch.int32)

    def _blocks(self, weight: Tensor) -> Tensor:
        """``weight`` in working precision; with steps [A, B/g] as [A, B/g, g]."""
        working = weight.to(_working_dtype(weight))
        if self.step.dim() == 0:
            return working
        rows, groups = self.step.shape
        if weight.dim() != 2 or weight.shape[0] != rows or weight.shape[1] % groups:
            raise InputError(
                "a weight must have the shape its grid was fitted to",
                given=tuple(weight.shape),
                allowed=f"[{rows}, a multiple of {groups}]",
            )
        return working.reshape(rows, groups, -1)

    def _per_block(self, scale: Tensor) -> Tensor:
        return scale if scale.dim() == 0 else scale.unsqueeze(-1)


def fit_grid(
    weight: Tensor,
    *,
    bits: int,
    kind: GridKind,
    granularity: Granularity = "tensor",
    group_size: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Grid:
    """Fit a grid to a weight.

    Per group: weight [A, B], group size g → steps [A, B/g]. Per channel (output row): steps [A, 1]. Per tensor
    and global: one step, shape []. Where a group has no range (``minmax-*``: all weights equal; ``symmetric``:
    all zero) the step is 0 and rounding gives the weight itself.

    Args:
        weight: finite; [A, B] for ``channel`` and ``group``, else any shape.
        bits: N, 1 … 16.
        kind: which grid.
        granularity: how many weights share a step; ``global`` takes the range from ``bounds``.
        group_size: g, inputs of one row that share a step; with ``group`` only. Must divide B.
        bounds: smallest and largest of **all** quantized weights; with ``global`` only.

    Raises:
        InputError: an argument that is missing, of no use, or does not fit the weight's shape.
    """
    _refuse_misfits(weight, bits, granularity, group_size, bounds)
    dtype = _working_dtype(weight)
    if bounds is not None:
        low, high = (torch.tensor(bound, dtype=dtype, device=weight.device) for bound in bounds)
    elif granularity == "tensor":
        low, high = torch.aminmax(weight.to(dtype))
    else:
        rows, inputs = weight.shape
        blocks = weight.to(dtype).reshape(rows, -1, inputs if group_size is None else group_size)
        low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)  # aminmax takes seven times as long
    if kind == "symmetric":
        return Grid(kind, bits, torch.maximum(high, -low) / 2 ** (bits - 1), torch.zeros_like(low))
    return Grid(kind, bits, (high - low) / 2**bits, low)


def straight_through(weight: Tensor, grid: Grid) -> Tensor:
    """``grid.round(weight)`` forward, the identity backward (straight-through estimator, Bengio et al. 2013).

    The gradient passes unchanged also where the grid clamps. Nothing flows into the grid.
    """
    rounded: Tensor = _StraightThrough.apply(weight, grid)  # type: ignore[no-untyped-call]  # torch
    return rounded


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, grid: Grid) -> Tensor:
        return grid.round(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _working_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _refuse_misfits(
    weight: Tensor, bits: int, granularity: Granularity, group_size: int | None, bounds: Sequence[float] | None
) -> None:
    if not 1 <= bits <= 16:
        raise InputError("bits must lie in 1 … 16", given=bits)
    if (group_size is not None) != (granularity == "group"):
        raise InputError(
            f"group_size belongs to granularity 'group' and to no other; granularity is {granularity!r}",
            given=group_size,
        )
    if (bounds is not None) != (granularity == "global"):
        raise InputError(
            f"bounds belong to granularity 'global' and to no other; granularity is {granularity!r}", given=bounds
        )
    if granularity in ("channel", "group") and weight.dim() != 2:
        raise InputError(
            f"granularity {granularity!r} needs a weight [outputs, inputs]", given=tuple(weight.shape)
        )
    if group_size is not None and (group_size < 1 or weight.shape[1] % group_size):
        raise InputError(
            f"group_size must divide the weight's {weight.shape[1]} inputs",
            given=group_size,
            remedy="Choose a divisor, or granularity: channel",
        )
