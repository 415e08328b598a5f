"""The buckets of the formats whose levels follow from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quail_lightning.functional.affine_grid import Granularity, Grid, GridKind, fit_grid
from quail_lightning.functional.code_books import BLOCK, CodeName, ScaledCode, fit_code
from quail_lightning.functional.rounding import NearestValue
from quail_lightning.quantization.protocol import Bounds


@dataclass(frozen=True)
class GridBuckets:
    """Those of ``Uniform``; see ``Buckets``."""

    bits: int
    granularity: Granularity
    group_size: int | None
    grid: GridKind

    def unit(self, inputs: int) -> int:
        """Rows, or single values."""
        return inputs if self.granularity in ("channel", "group") else 1

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Weights whose inputs the group size does not divide."""
        size = self.group_size or 1
        inputs = {name: shape[-1] for name, shape in shapes.items()}
        return [f"{name} ({count} inputs, group_size {size})" for name, count in inputs.items() if count % size]

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> Grid:
        """Row by row, or by the range of the tensor or the model."""
        if self.granularity in ("channel", "group"):
            rows, by = weight.view(-1, inputs), self.granularity
            return fit_grid(rows, bits=self.bits, kind=self.grid, granularity=by, group_size=self.group_size)
        bounds = of_model if self.granularity == "global" else of_tensor
        return fit_grid(weight, bits=self.bits, kind=self.grid, granularity="global", bounds=bounds)


@dataclass(frozen=True)
class CodeBuckets:
    """Those of NF4 and FP4; see ``Buckets``."""

    code: CodeName

    def unit(self, inputs: int) -> int:
        """Blocks."""
        return BLOCK

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """None: the last block may be short."""
        return []

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> ScaledCode:
        """Block by block."""
        return fit_code(weight, self.code)


@dataclass(frozen=True)
class CastBuckets:
    """The values of a floating dtype, to the nearest of which ``Unquantized`` casts; see ``Buckets``."""

    dtype: torch.dtype

    def unit(self, inputs: int) -> int:
        """Single values."""
        return 1

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """None."""
        return []

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> NearestValue:
        """The same for every weight."""
        return NearestValue(self.dtype)
