"""The sums over one stretch of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.comparison.result import BINS, Change, Delivery, GridKey, Overlap, TensorComparison
from quail_lightning.comparison.source import WeightSource
from quail_lightning.comparison.tensor_grids import TensorGrids
from quail_lightning.functional.bucket_codes import LANES, ROWS, VALUES, count_equal, every_value


class PieceReader:
    """One thread's memory, and what it does to a stretch of two tensors.

    All figures of a piece are computed while it lies in the core's cache, into memory that is kept.

    Args:
        reference, model: the weights.
    """

    def __init__(self, reference: WeightSource, model: WeightSource) -> None:
        self._sources = (reference, model)
        self._room = 0

    def compare(self, grids: TensorGrids, start: int, stop: int) -> TensorComparison:
        """The sums over values ``start`` … ``stop``, a multiple of the piece's length unless at the end."""
        self._make_room(grids)
        deliveries = {used.name: Delivery() for used in grids.formats}
        overlaps = {key: Overlap() for key in grids.steps}
        found = TensorComparison(
            grids.name, grids.shape, grids.role.layer, grids.role.quantized, Change(), overlaps, deliveries
        )
        encoders = grids.encoders()
        seen = torch.zeros(VALUES, dtype=torch.int64) if encoders[2].looks_up else None
        for begin in range(start, stop, grids.piece):
            self._piece(grids, begin, min(begin + grids.piece, stop), found, seen)
        for key, step in grids.steps.items():
            overlaps[key].count = stop - start
            overlaps[key].step_sum = (stop - start) * step
        if seen is not None:
            present = seen.nonzero().flatten()
            values = every_value(grids.dtypes[1])[present]
            self._count_itself(grids, values, seen[present].numpy(), overlaps)
        return found

    def _make_room(self, grids: TensorGrids) -> None:
        if grids.piece <= self._room:
            return
        room = self._room = grids.piece
        self._raw = (bytearray(8 * room), bytearray(8 * room))
        self._float = torch.empty(2, room)
        self._scratch = torch.empty(room)
        self._pattern = torch.empty(2, room, dtype=torch.int32)
        self._words = torch.empty(2, room, dtype=torch.int64)
        self._flags = np.empty(-(-room // ROWS) * ROWS * LANES, np.bool_)

    def _piece(
        self, grids: TensorGrids, start: int, stop: int, found: TensorComparison, seen: Tensor | None
    ) -> None:
        count = stop - start
        weights = [
            source.read(grids.name, start, stop, memory)
            for source, memory in zip(self._sources, self._raw, strict=True)
        ]
        reference, model = (out[:count].copy_(weight) for out, weight in zip(self._float, weights, strict=True))
        patterns = [_pattern(weight, out[:count]) for weight, out in zip(weights, self._pattern, strict=True)]
        self._count_overlaps(grids, weights, patterns, found.overlaps)
        if seen is not None:
            pattern = patterns[1]
            assert pattern is not None
            seen += torch.bincount(pattern, minlength=VALUES)
        else:
            self._count_itself(grids, weights[1], np.ones(count, np.int64), found.overlaps)
        if grids.formats:
            self._deliver(grids, reference, model, found.deliveries)
        self._measure_change(grids, torch.sub(model, reference, out=reference), found)

    def _count_overlaps(
        self,
        grids: TensorGrids,
        weights: Sequence[Tensor],
        patterns: Sequence[Tensor | None],
        overlaps: dict[GridKey, Overlap],
    ) -> None:
        first, second, own = grids.encoders()
        left_out, right_out = (words[: len(weights[0])] for words in self._words)
        for word in range(first.words):
            lanes = grids.lanes[word * LANES : (word + 1) * LANES]
            left = first.word(word, weights[0], patterns[0], left_out)
            for encoder, field in ((second, "same"), (own, "own")):
                right = encoder.word(word, weights[1], patterns[1], right_out)
                difference = torch.bitwise_xor(left, right, out=right_out).numpy()
                for bits in dict.fromkeys(bits for lane in lanes for bits in lane.bits):
                    counts = count_equal(difference, bits, self._flags)
                    for lane, equal in zip(lanes, counts, strict=False):
                        if bits in lane.bits:
                            overlap = overlaps[lane.key(bits)]
                            setattr(overlap, field, getattr(overlap, field) + int(equal))

    def _count_itself(
        self, grids: TensorGrids, values: Tensor, times: NDArray[np.int64], overlaps: dict[GridKey, Overlap]
    ) -> None:
        for lane in grids.lanes:
            for bits in lane.bits:
                kept = grids.keeps_own_index(lane, bits, values)
                overlaps[lane.key(bits)].itself += int(times[kept].sum())

    def _deliver(
        self, grids: TensorGrids, reference: Tensor, model: Tensor, deliveries: dict[str, Delivery]
    ) -> None:
        for used in grids.formats:
            pair = [
                (weight.view(-1, grids.inputs) if used.unit(grids.inputs) == grids.inputs else weight)
                for weight in (reference, model)
            ]
            fitted = [
                used.fit(weight, grids.inputs, of_tensor, of_model)
                for weight, of_tensor, of_model in zip(pair, grids.of_tensor, grids.of_model, strict=True)
            ]
            deliveries[used.name] += used.deliver(pair[0], pair[1], fitted[0], fitted[1])

    def _measure_change(self, grids: TensorGrids, moved: Tensor, found: TensorComparison) -> None:
        """δ is overwritten by |δ|."""
        size = moved.abs_()
        equal = np.equal(size.numpy(), np.float32(0), out=self._flags[: len(size)])
        scratch = self._scratch[: len(size)]
        equals = int(np.count_nonzero(equal))
        for key, step in grids.steps.items():
            # a tensor without range: any move leaves its bucket
            found.overlaps[key].crossing += (
                torch.clamp(size, max=step, out=scratch).sum().item() / step if step else len(size) - equals
            )
        bins = torch.bitwise_right_shift(size.view(torch.int32), 16, out=scratch.view(torch.int32))
        found.change += Change(
            count=len(size),
            equal=equals,
            sum_abs=size.sum().item(),
            sum_squares=torch.dot(size, size).item(),
            largest=size.max().item(),
            histogram=torch.bincount(bins, minlength=BINS).numpy(),
        )


def _pattern(weight: Tensor, out: Tensor) -> Tensor | None:
    """The bits of 16-bit values as numbers from 0; None for other dtypes."""
    if weight.dtype.itemsize != 2:
        return None
    np.copyto(out.numpy(), weight.view(torch.int16).numpy().view(np.uint16), casting="unsafe")
    return out
