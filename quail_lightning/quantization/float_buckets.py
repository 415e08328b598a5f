"""The buckets of NVFP4, MXFP4 and FP8 weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from quail_lightning.functional.float_codes import FloatFormat, ScaledFloat, fit_float
from quail_lightning.quantization.fused_layers import fused_weights
from quail_lightning.quantization.protocol import Bounds


@dataclass(frozen=True)
class FloatBuckets:
    """Those of ``NarrowFloat``; see ``Buckets`` and ``SharesRanges``.

    Attributes:
        format: which.
        block: inputs of a row that share a scale; None: the whole row.
    """

    format: FloatFormat
    block: int | None

    def unit(self, inputs: int) -> int:
        """Blocks, or rows."""
        return self.block or inputs

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Weights whose inputs are no whole number of blocks."""
        size = self.block or 1
        inputs = {name: shape[-1] for name, shape in shapes.items()}
        return [f"{name} ({count} inputs, blocks of {size})" for name, count in inputs.items() if count % size]

    def together(self, names: Collection[str]) -> list[tuple[str, ...]]:
        """The layers that vLLM fuses, of NVFP4: one global scale serves them."""
        return fused_weights(names) if self.format == "nvfp4" else []

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> ScaledFloat:
        """Block by block."""
        return fit_float(weight, self.format, self.block or inputs, max(map(abs, of_tensor)))
