"""The grids on which one tensor's weights are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.comparison.formats import Format, piece_length
from quail_lightning.comparison.parameters import Role
from quail_lightning.comparison.result import GridKey, Scope, SharedStep
from quail_lightning.functional.affine_grid import Grid, GridKind, fit_grid
from quail_lightning.functional.bucket_codes import LANES, VALUES, bits_of, codes, every_value, packed
from quail_lightning.quantization.protocol import Bounds

PIECE = 2**18  # values; shorter ones wait longer for Python than they gain from a core's cache


class Lane(NamedTuple):
    """Grids of one formula and range that share a lane of the packed indices.

    Attributes:
        kind, granularity, scope: see ``GridKey``.
        bits: the widths, largest first.
        reference, model: the range of w and of w′ that the grids span.
    """

    kind: GridKind
    granularity: SharedStep
    scope: Scope
    bits: tuple[int, ...]
    reference: Bounds
    model: Bounds

    def key(self, bits: int) -> GridKey:
        """The table's column."""
        return GridKey(self.kind, self.granularity, bits, self.scope)


class TensorGrids:
    """One tensor of the two models, and what is asked about it.

    Args:
        name, shape, role: of the tensor.
        dtypes: of w and of w′.
        lanes: grids of the overlap table.
        formats: whose delivered shift is measured.
        of_formats: for each of them, the ranges of w and w′ that its levels in this tensor are fitted to.
        of_tensor, of_model: ranges of w and w′ in this tensor and in all quantized weights.

    Attributes:
        steps: Δ of each grid on the reference's range.
        questions: for each word of the packed indices, bit widths with the lanes that they are asked of.
        ranges_are_equal: whether both models have the same grids: an extreme bfloat16 weight seldom moves.
        has_few_pairs: whether both models' weights are of one 16-bit dtype and many.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        role: Role,
        dtypes: tuple[torch.dtype, torch.dtype],
        lanes: Sequence[Lane],
        formats: Sequence[Format],
        of_formats: Sequence[tuple[Bounds, Bounds]],
        of_tensor: tuple[Bounds, Bounds],
        of_model: tuple[Bounds, Bounds],
    ) -> None:
        self.name, self.shape, self.role, self.dtypes = name, shape, role, dtypes
        self.lanes, self.formats, self.of_formats = lanes, formats, of_formats
        self.of_tensor, self.of_model = of_tensor, of_model
        self.size = math.prod(shape)
        self.inputs = shape[-1] if shape else 1
        self.piece = piece_length(PIECE, self.size, self.inputs, formats)
        self.steps = {
            lane.key(bits): _Fitted(lane.kind, bits, lane.reference).grid().step.item()
            for lane in lanes
            for bits in lane.bits
        }
        self.questions = [_questions(lanes[start : start + LANES]) for start in range(0, len(lanes), LANES)]
        self.ranges_are_equal = all(lane.reference == lane.model for lane in lanes)
        self.has_few_pairs = dtypes[0] == dtypes[1] and dtypes[0].itemsize == 2 and self.size > VALUES
        self._lock = Lock()

    def encoders(self) -> tuple[Encoder, Encoder, Encoder]:
        """For w and for w′ on the reference's grids, and for w′ on its own."""
        with self._lock:  # the tables are made once, by the first thread that comes
            return self._encoders

    @cached_property
    def _encoders(self) -> tuple[Encoder, Encoder, Encoder]:
        of_reference, of_model = self.dtypes
        on_reference = [_Fitted(lane.kind, lane.bits[0], lane.reference) for lane in self.lanes]
        on_model = [_Fitted(lane.kind, lane.bits[0], lane.model) for lane in self.lanes]
        first = Encoder(on_reference, of_reference, self.size)
        second = first if of_model == of_reference else Encoder(on_reference, of_model, self.size)
        return first, second, Encoder(on_model, of_model, self.size)

    def keeps_own_index(self, lane: Lane, bits: int, values: Tensor) -> NDArray[np.bool_]:
        """Whether the quantized model has these weights' indices too (QUAIL Fig. 2).

        Q(w′) is what a quantized checkpoint holds: the level, cast to the model's dtype. Its own grid spans
        the range of Q(w′), whose ends are Q of the range's ends.

        Args:
            lane: the grid's formula and range.
            bits: its width.
            values: [n] of w′, in its dtype.
        """
        grid = _Fitted(lane.kind, bits, lane.model)
        if lane.granularity == "global" and values.dtype.itemsize == 2:
            return _every_kept(grid, values.dtype)[bits_of(values)]
        return _kept(grid, values)


class _Fitted(NamedTuple):
    """A grid by what it is made of, so that equal ones are known as such."""

    kind: GridKind
    bits: int
    bounds: Bounds

    def grid(self) -> Grid:
        nothing = torch.empty(0, dtype=torch.float64)
        return fit_grid(nothing, bits=self.bits, kind=self.kind, granularity="global", bounds=self.bounds)


class Encoder:
    """The packed indices of many weights of one dtype.

    Args:
        grids: in the order of the lanes.
        dtype: of the weights.
        size: how many there will be; few are encoded one by one, more are looked up where 16 bits allow it.
    """

    def __init__(self, grids: Sequence[_Fitted], dtype: torch.dtype, size: int) -> None:
        self._grids = grids
        self._table: NDArray[np.int64] | None = None
        if dtype.itemsize == 2 and size > VALUES:
            self._table = packed([_every_code(grid, dtype) for grid in grids])

    def words(self, weight: Tensor) -> NDArray[np.int64]:
        """[words, n] of weights [n]."""
        if self._table is None:
            return packed([codes(weight, fitted.grid()) for fitted in self._grids])
        return self._table.take(bits_of(weight), axis=1)


# the grids of whole models come again with every tensor


@lru_cache(maxsize=32)
def _every_code(fitted: _Fitted, dtype: torch.dtype) -> NDArray[np.uint16]:
    # NaN among the values has no index; no weight is NaN
    return codes(every_value(dtype).nan_to_num(), fitted.grid())


@lru_cache(maxsize=32)
def _every_kept(fitted: _Fitted, dtype: torch.dtype) -> NDArray[np.bool_]:
    return _kept(fitted, every_value(dtype).nan_to_num())


def _kept(fitted: _Fitted, values: Tensor) -> NDArray[np.bool_]:
    grid = fitted.grid()
    low, high = (
        grid.value(grid.index(torch.tensor(bound, dtype=torch.float64))).to(values.dtype).item()
        for bound in fitted.bounds
    )
    index = grid.index(values.double())
    quantized = grid.value(index).to(values.dtype).double()
    again = _Fitted(fitted.kind, fitted.bits, (low, high)).grid()
    kept: NDArray[np.bool_] = (again.index(quantized) == index).numpy()
    return kept


def _questions(lanes: Sequence[Lane]) -> list[tuple[int, list[tuple[int, GridKey]]]]:
    widths = dict.fromkeys(bits for lane in lanes for bits in lane.bits)
    return [
        (bits, [(number, lane.key(bits)) for number, lane in enumerate(lanes) if bits in lane.bits])
        for bits in widths
    ]
