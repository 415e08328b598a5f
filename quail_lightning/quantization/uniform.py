"""The papers' own uniform grids, simulated: the copy holds dequantized weights in the model's dtype."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import Granularity, Grid, GridKind, fit_grid
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.body import refuse_broken, refuse_indivisible
from quail_lightning.quantization.body_weights import BodyWeight, Layout, body_weights, matrices, matrix_names
from quail_lightning.quantization.buckets import GridBuckets
from quail_lightning.quantization.layer_bits import bits_of_layers
from quail_lightning.quantization.protocol import PreTrainedModel

DIVISOR = "Choose a divisor, or granularity: channel"


class Uniform:
    """Round-to-nearest on a uniform grid, without calibration and on any device.

    Args:
        bits: N, 2 … 8; the grid has 2^N levels.
        granularity: how many weights share a step: all quantized weights of the model (``global``), a
            ``tensor`` (of stacked experts, each expert's), an output row (``channel``), or ``group_size`` inputs
            of a row (``group``).
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
    simulated = True
    stored_bits = 16
    backend = "torch"

    def buckets(self) -> GridBuckets | None:
        """See ``HasBuckets``; none of mixed precision."""
        return None if self.layer_bits else GridBuckets(self.bits, self.granularity, self.group_size, self.grid)

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``: linear and Conv1D layers, and every expert of a stack on grids of its own."""
        return [each.name for each, _ in self._plan(model)]

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        plan = self._plan(model)
        bounds = self._examined(plan)
        quantized = copy.deepcopy(model)
        for each, bits in plan:
            # Read from the input: a weight that two layers share is rounded once.
            source, copied = each.parameter.detach(), quantized.get_parameter(each.name).detach()
            self._round(source, copied, each.layout, bits, bounds)
        return quantized

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy is simulated in 16 bits and therefore sharded as well."""
        plan = self._plan(model)
        bounds = self._examined(plan)
        quantized = cast_shards(model, model.dtype)
        for each, bits in plan:
            weight, copied = whole(each.parameter.detach()), quantized.get_parameter(each.name)
            rounded = torch.empty_like(weight)
            self._round(weight, rounded, each.layout, bits, bounds)
            share(copied).copy_(rounded[own_rows(copied)])
        return quantized

    def _plan(self, model: PreTrainedModel) -> list[tuple[BodyWeight, int]]:
        """The weights to be rounded, and to how many bits; reads no values."""
        chosen = set(matrix_names(model))
        body = [each for each in body_weights(model) if each.name in chosen]
        layers = {each.name: each.name.removesuffix(".weight") for each in body}
        inputs = {layers[each.name]: each.inputs for each in body}
        refuse_indivisible(inputs, self.group_size, DIVISOR)
        bits = bits_of_layers(inputs, self.bits, self.layer_bits)
        return [(each, bits[layers[each.name]]) for each in body]

    def _examined(self, plan: Sequence[tuple[BodyWeight, int]]) -> tuple[float, float] | None:
        """Refuse NaN and infinity; (min, max) over all weights where one grid serves them all."""
        extremes = {each.name: torch.aminmax(whole(each.parameter.detach())) for each, _ in plan}
        refuse_broken([name for name, bounds in extremes.items() if not torch.stack([*bounds]).isfinite().all()])
        if self.granularity != "global":
            return None
        lows, highs = zip(*extremes.values(), strict=True)
        return min(map(float, lows)), max(map(float, highs))

    def _round(
        self, weight: Tensor, place: Tensor, layout: Layout, bits: int, bounds: tuple[float, float] | None
    ) -> None:
        for matrix, rounded in zip(matrices(weight, layout), matrices(place, layout), strict=True):
            rounded.copy_(self._grid(matrix, bits, bounds).round(matrix))

    def _grid(self, weight: Tensor, bits: int, bounds: tuple[float, float] | None) -> Grid:
        return fit_grid(
            weight,
            bits=bits,
            kind=self.grid,
            granularity=self.granularity,
            group_size=self.group_size,
            bounds=bounds,
        )
