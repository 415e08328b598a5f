"""The sums over one stretch of a tensor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.comparison.result import BINS, Change, Delivery, GridKey, Overlap, TensorComparison
from quail_lightning.comparison.source import WeightSource
from quail_lightning.comparison.tensor_grids import TensorGrids
from quail_lightning.functional.bucket_codes import VALUES, count_equal, every_value, flags_for

PIECES = 4  # of a block; counting values and sizes has a cost of its own for each call


class PieceReader:
    """One thread's memory, and what it does to a stretch of two tensors.

    A block is read at once and looked at piece by piece. All memory is kept from
    one block to the next.

    Args:
        reference: w.
        model: w′.
    """

    def __init__(self, reference: WeightSource, model: WeightSource) -> None:
        self._sources = (reference, model)
        self._room = 0

    def compare(self, grids: TensorGrids, start: int, stop: int) -> TensorComparison:
        """The sums over values ``start`` … ``stop``; both are multiples of the piece's length or the end."""
        self._make_room(grids.piece)
        overlaps = {
            key: Overlap(stop - start, step_sum=(stop - start) * step) for key, step in grids.steps.items()
        }
        deliveries = {used.name: Delivery() for used in grids.formats}
        role = grids.role
        found = TensorComparison(
            grids.name, grids.shape, role.layer, role.quantized, Change(), overlaps, deliveries
        )
        seen = torch.zeros(VALUES, dtype=torch.int64) if grids.looks_up else None
        block = PIECES * grids.piece
        for begin in range(start, stop, block):
            self._block(grids, begin, min(begin + block, stop), found, seen)
        if seen is not None:
            present = seen.nonzero().flatten()
            values = every_value(grids.dtypes[1])[present]
            self._count_itself(grids, values, seen[present].numpy(), overlaps)
        self._expect(grids, found)
        return found

    def _make_room(self, piece: int) -> None:
        if piece <= self._room:
            return
        self._room, block = piece, PIECES * piece
        self._raw = (bytearray(8 * block), bytearray(8 * block))
        self._patterns = (torch.empty(block, dtype=torch.int32), torch.empty(block, dtype=torch.int32))
        self._bins = torch.empty(block, dtype=torch.int32)
        self._float = (torch.empty(piece), torch.empty(piece))
        self._reference_words = torch.empty(piece, dtype=torch.int64)
        self._model_words = torch.empty(2 * piece, dtype=torch.int64)
        self._flags = flags_for(piece)

    def _block(
        self, grids: TensorGrids, start: int, stop: int, found: TensorComparison, seen: Tensor | None
    ) -> None:
        first, second = (
            source.read(grids.name, start, stop, memory)
            for source, memory in zip(self._sources, self._raw, strict=True)
        )
        patterns = (_pattern(first, self._patterns[0]), _pattern(second, self._patterns[1]))
        if seen is not None:
            seen += torch.bincount(patterns[1], minlength=VALUES)  # type: ignore[arg-type]
        else:
            self._count_itself(grids, second, np.ones(len(second), np.int64), found.overlaps)
        bins = self._bins[: len(first)]
        for begin in range(0, len(first), grids.piece):
            piece = slice(begin, min(begin + grids.piece, len(first)))
            self._count_overlaps(grids, (first[piece], second[piece]), patterns, piece, found.overlaps)
            count = piece.stop - begin
            reference, model = (memory[:count] for memory in self._float)
            reference.copy_(first[piece])
            model.copy_(second[piece])
            if grids.formats:
                self._deliver(grids, reference, model, found.deliveries)
            self._measure_change(torch.sub(model, reference, out=model), found.change, bins[piece])
        change = found.change
        assert change.histogram is not None
        change.count += len(first)
        change.histogram += torch.bincount(bins, minlength=BINS).numpy()
        change.equal = int(change.histogram[0])  # the first bin ends at 1e-40, bfloat16's smallest magnitude

    def _count_overlaps(
        self,
        grids: TensorGrids,
        weights: tuple[Tensor, Tensor],
        patterns: tuple[Tensor | None, Tensor | None],
        piece: slice,
        overlaps: dict[GridKey, Overlap],
    ) -> None:
        on_reference, model_on_reference, own = grids.encoders()
        first, second = (None if pattern is None else pattern[piece] for pattern in patterns)
        count = len(weights[0])
        grids_of_both = 1 if grids.ranges_are_equal else 2
        on_both = self._model_words[: grids_of_both * count].view(grids_of_both, count)
        for word, questions in enumerate(grids.questions):
            left = on_reference.word(word, weights[0], first, self._reference_words[:count])
            model_on_reference.word(word, weights[1], second, on_both[0])
            if not grids.ranges_are_equal:
                own.word(word, weights[1], second, on_both[1])
            difference = on_both.numpy()
            np.bitwise_xor(difference, left.numpy(), out=difference)
            for bits, keys in questions:
                counts = count_equal(difference, bits, self._flags)
                for lane, key in keys:
                    overlaps[key].same += counts[0][lane]
                    overlaps[key].own += counts[-1][lane]

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
            by_row = used.unit(grids.inputs) == grids.inputs
            pair = [weight.view(-1, grids.inputs) if by_row else weight for weight in (reference, model)]
            fitted = [
                used.fit(weight, grids.inputs, of_tensor, of_model)
                for weight, of_tensor, of_model in zip(pair, grids.of_tensor, grids.of_model, strict=True)
            ]
            deliveries[used.name] += used.deliver(pair[0], pair[1], fitted[0], fitted[1])

    def _measure_change(self, moved: Tensor, change: Change, bins: Tensor) -> None:
        """Sums of a piece's δ, which is overwritten by |δ|, and the bins of |δ|."""
        size = moved.abs_()
        change.sum_abs += size.sum().item()
        change.sum_squares += torch.dot(size, size).item()
        change.largest = max(change.largest, size.max().item())
        torch.bitwise_right_shift(size.view(torch.int32), 16, out=bins)

    def _expect(self, grids: TensorGrids, found: TensorComparison) -> None:
        """Σ min(1, |δ|/Δ) from the histogram.

        A bin stands for the middle of its 0.8 %, and all of them for the exact Σ|δ|: differences of bfloat16
        weights lie at the lower ends of their bins.
        """
        change = found.change
        assert change.histogram is not None
        bins = np.flatnonzero(change.histogram)
        times = change.histogram[bins]
        middles = ((bins.astype(np.uint32) << 16) + 2**15).view(np.float32).astype(np.float64)
        middles[bins == 0] = 0.0
        summed = float(times @ middles)
        sizes = middles * (change.sum_abs / summed) if summed else middles
        for key, step in grids.steps.items():
            # a tensor without range: any move leaves its bucket
            crossing = np.minimum(sizes / step, 1.0) if step else (sizes > 0).astype(np.float64)
            found.overlaps[key].crossing = float(times @ crossing)


def _pattern(weight: Tensor, memory: Tensor) -> Tensor | None:
    """The bits of 16-bit values as numbers from 0; None for other dtypes."""
    if weight.dtype.itemsize != 2:
        return None
    out = memory[: len(weight)]
    np.copyto(out.numpy(), weight.view(torch.int16).numpy().view(np.uint16), casting="unsafe")
    return out
