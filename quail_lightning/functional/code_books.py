"""NF4 and FP4: sixteen codes, the largest magnitude of 64 weights consecutive in memory as scale.

A weight takes the level nearest to weight / scale; boundaries lie midway between levels. NF4 is the code of QLoRA
(Dettmers et al. 2023, appendix E). FP4 is the one of bitsandbytes: a sign, two exponent bits and one of mantissa,
whose smallest magnitude is 1/192. Its two zeros are one level here, so it has fifteen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

CodeName = Literal["nf4", "fp4"]

BLOCK = 64  # weights consecutive in memory that share a scale
CELLS = 4096  # of [−1, 1] in the search for a weight's bucket; no two boundaries share a cell

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4_MAGNITUDES = (1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)
_LEVELS: dict[CodeName, tuple[float, ...]] = {
    "nf4": _NF4,
    "fp4": (*(-level for level in reversed(_FP4_MAGNITUDES)), 0.0, *_FP4_MAGNITUDES),
}


def levels(name: CodeName) -> Tensor:
    """[16] of NF4 or [15] of FP4, ascending from −1 to 1, float32."""
    return torch.tensor(_LEVELS[name], dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class ScaledCode:
    """A code book with the scales fitted to a weight.

    Attributes:
        name: which code book.
        scale: [blocks] largest magnitude of each block of 64, float32; 0 where all its weights are 0.
    """

    name: CodeName
    scale: Tensor

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight: int32, shaped like ``weight``, from 0 for the lowest level.

        Args:
            weight: as many values as were fitted, of any shape; those beyond the scale take the outermost
                level. In a block whose scale is 0 every sign has one bucket.
        """
        # as bitsandbytes does it: a product with the reciprocal, not a quotient
        scaled = _blocks(weight.float()) * (1.0 / self.scale.clamp(min=1e-38)).unsqueeze(-1)
        index = _bucket(self.name, scaled.clamp_(-1.0, 1.0).flatten())
        return index[: weight.numel()].reshape(weight.shape)

    def zero(self) -> Tensor:
        """[1] the bucket of the weight 0 in every block, int32."""
        return _bucket(self.name, self.scale.new_zeros(1))

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for, float32, shaped like ``index``."""
        return self._scaled(levels(self.name), index)

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket, from boundary to boundary; the outermost end at ± the scale."""
        bounds = torch.cat([torch.tensor([-1.0]), _boundaries(self.name), torch.tensor([1.0])])
        return self._scaled(bounds.diff(), index)

    def _scaled(self, table: Tensor, index: Tensor) -> Tensor:
        found = table.to(index.device).index_select(0, index.flatten())
        return _blocks(found).mul_(self.scale.unsqueeze(-1)).flatten()[: index.numel()].reshape(index.shape)


def fit_code(weight: Tensor, name: CodeName) -> ScaledCode:
    """Scale a code book to a weight.

    Args:
        weight: finite, of any shape; a last block of fewer than 64 has a scale of its own.
        name: which code book.
    """
    return ScaledCode(name, _blocks(weight.float()).abs().amax(dim=-1))


def _blocks(weight: Tensor) -> Tensor:
    """[blocks, 64], the last one filled up with zeros."""
    flat = weight.reshape(-1)
    if short := -len(flat) % BLOCK:
        flat = torch.cat([flat, flat.new_zeros(short)])
    return flat.view(-1, BLOCK)


def _bucket(name: CodeName, scaled: Tensor) -> Tensor:
    """Of weights [n] divided by their scale, within −1 … 1."""
    first, boundary = (table.to(scaled.device) for table in _search_table(name))
    cell = (scaled + 1.0).mul_(CELLS / 2).to(torch.int32)
    below = boundary.index_select(0, cell).sub_(scaled).view(torch.int32)
    # 1 more beyond the boundary: the sign, shifted through all bits, is −1; to compare takes three times as long
    return first.index_select(0, cell).sub_(below.bitwise_right_shift_(31))


@cache
def _boundaries(name: CodeName) -> Tensor:
    exact = torch.tensor(_LEVELS[name], dtype=torch.float64)
    return ((exact[:-1] + exact[1:]) / 2).float()


@cache
def _search_table(name: CodeName) -> tuple[Tensor, Tensor]:
    """For each cell of [−1, 1] the bucket at its lower end and the boundary in it, 2 where there is none.

    ``bucketize`` compares with several boundaries for each weight, which takes ten times as long.
    """
    boundaries = _boundaries(name)
    # computed like a weight's cell, so that a weight and a boundary between cells are placed alike
    cells = ((boundaries + 1.0) * (CELLS / 2)).to(torch.int64)
    assert len(cells.unique()) == len(cells)
    boundary = torch.full((CELLS + 1,), 2.0)
    boundary[cells] = boundaries
    first = torch.bucketize(torch.arange(CELLS + 1), cells, out_int32=True)
    return first, boundary
