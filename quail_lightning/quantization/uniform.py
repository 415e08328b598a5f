"""The papers' own uniform grids, simulated: the copy holds dequantized weights in the model's dtype."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import Granularity, Grid, GridKind, fit_grid
from quail_lightning.functional.finite import is_finite
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.body import (
    quantized_linears,
    refuse_broken,
    refuse_indivisible,
    refuse_non_finite,
)
from quail_lightning.quantization.layer_bits import bits_of_layers
from quail_lightning.quantization.protocol import PreTrainedModel

DIVISOR = "Choose a divisor, or granularity: channel"


class Uniform:
    """Round-to-nearest on a uniform grid, without calibration and on any device.

    Args:
        bits: N, 2 … 8; the grid has 2^N levels.
        granularity: how many weights share a step: all quantized weights of the model (``global``), a
            ``tensor``, an output row (``channel``), or ``group_size`` inputs of a row (``group``).
        group_size: inputs that share a step; with ``group`` only, where it must divide every layer's inputs.
        grid: which formula, see ``quail_lightning.functional.affine_grid``: ``symmetric`` is Eq. 2 of the
            catastrophic-failure paper, ``minmax-floor`` QUAIL's Eq. 2, ``minmax-round`` QUAIL's Eq. 7.
        layer_bits: mixed precision: shell-style pattern of layer names → bits of those layers
            (``*.down_proj: 8``); the first that matches counts, the other layers have ``bits``.

    Raises:
        InputError: bits outside 2 … 8, or a group size without groups or groups without a size.
    """

    def __init__(
        self,
        bits: int,
        granularity: Granularity = "tensor",
        group_size: int | None = None,
        grid: GridKind = "symmetric",
        layer_bits: dict[str, int] | None = None,
    ) -> None:
        for given in (bits, *(layer_bits or {}).values()):
            if not 2 <= given <= 8:
                raise InputError(
                    "bits must lie in 2 … 8",
                    given=given,
                    remedy="For 16 bits use quail_lightning.quantization.Unquantized (precision bf16)",
                )
        if granularity == "group" and (group_size is None or group_size < 1):
            raise InputError(
                "granularity 'group' needs a group_size of at least 1", given=group_size, remedy="64 is usual"
            )
        if granularity != "group" and group_size is not None:
            raise InputError(
                f"group_size is of no use with granularity {granularity!r}",
                given=group_size,
                remedy="Drop it, or set granularity: group",
            )
        self.bits = bits
        self.granularity: Granularity = granularity
        self.group_size = group_size
        self.grid = grid
        self.layer_bits = layer_bits

    needs_calibration = False

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        grids = self.grids(model)
        quantized = copy.deepcopy(model)
        with torch.no_grad():
            for name, linear in quantized_linears(model):
                # Read from the input: a weight that two layers share is rounded once.
                quantized.get_parameter(f"{name}.weight").copy_(grids[name].round(linear.weight))
        return quantized

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy is simulated in 16 bits and therefore sharded as well."""
        linears = quantized_linears(model)
        refuse_indivisible(linears, self.group_size, DIVISOR)
        bits = bits_of_layers([name for name, _ in linears], self.bits, self.layer_bits)
        extremes, broken = [], []
        for name, linear in linears:
            weight = whole(linear.weight.detach())
            extremes.append(torch.aminmax(weight))
            if not is_finite(weight):
                broken.append(name)
        refuse_broken(broken)
        bounds = _bounds(extremes) if self.granularity == "global" else None
        quantized = cast_shards(model, model.dtype)
        for name, linear in linears:
            weight, copied = whole(linear.weight.detach()), quantized.get_parameter(f"{name}.weight")
            rounded = self._grid(weight, bits[name], bounds).round(weight)
            share(copied).copy_(rounded[own_rows(copied)])
        return quantized

    def grids(self, model: PreTrainedModel) -> dict[str, Grid]:
        """The grid of every quantized weight, by the name of its layer.

        Raises:
            InputError: a weight holds NaN or infinity, or the group size does not divide a layer's inputs.
        """
        linears = quantized_linears(model)
        refuse_indivisible(linears, self.group_size, DIVISOR)
        refuse_non_finite(linears)
        weights = {name: linear.weight.detach() for name, linear in linears}
        bits = bits_of_layers(weights, self.bits, self.layer_bits)
        bounds = None
        if self.granularity == "global":
            bounds = _bounds([torch.aminmax(weight) for weight in weights.values()])
        return {name: self._grid(weight, bits[name], bounds) for name, weight in weights.items()}

    def _grid(self, weight: Tensor, bits: int, bounds: tuple[float, float] | None) -> Grid:
        return fit_grid(
            weight,
            bits=bits,
            kind=self.grid,
            granularity=self.granularity,
            group_size=self.group_size,
            bounds=bounds,
        )


def _bounds(extremes: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """(min, max) over all weights."""
    lows, highs = zip(*extremes, strict=True)
    return min(map(float, lows)), max(map(float, highs))
