"""The sums over one stretch of a tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quail_lightning.comparison.result import BINS, Change, Delivery, Overlap, TensorComparison
from quail_lightning.comparison.source import WeightSource
from quail_lightning.comparison.tensor_grids import TensorGrids
from quail_lightning.comparison.value_pairs import PairCounter
from quail_lightning.functional.bucket_codes import VALUES, bits_of, count_equal, every_value, unpacked


class PieceReader:
    """One thread's memory, and what it does to a stretch of two tensors.

    The stretch is read piece by piece. Where its weights make few different pairs, they are counted first, and
    the grids are asked about the pairs.

    Args:
        reference: w.
        model: w′.
        gradient: of the forget NLL, of every tensor that formats are asked about; None where they are not asked.
    """

    def __init__(self, reference: WeightSource, model: WeightSource, gradient: WeightSource | None = None) -> None:
        self._sources, self._gradient = (reference, model), gradient
        self._room = 0

    def compare(self, grids: TensorGrids, start: int, stop: int) -> TensorComparison:
        """The sums over values ``start`` … ``stop``; both are multiples of the piece's length or the end."""
        self._make_room(grids.piece)
        found = TensorComparison(
            grids.name,
            grids.shape,
            grids.role.layer,
            grids.role.quantized,
            Change(stop - start),
            {key: Overlap(stop - start, step_sum=(stop - start) * step) for key, step in grids.steps.items()},
            {used.name: Delivery() for used in grids.formats},
        )
        if grids.has_few_pairs:
            self._pairs.start(grids.dtypes[0], max(map(abs, grids.of_tensor[0])))
        for begin in range(start, stop, grids.piece):
            first, second = (
                source.read(grids.name, begin, min(begin + grids.piece, stop), memory)
                for source, memory in zip(self._sources, self._raw, strict=True)
            )
            if grids.has_few_pairs:
                self._pairs.add(bits_of(first), bits_of(second))
            else:
                self._count(grids, first, second, None, found)
                self._count_itself(grids, second, None, found)
            if grids.formats:
                end = min(begin + grids.piece, stop)
                slope = None if self._gradient is None else self._gradient.read(grids.name, begin, end).float()
                self._deliver(grids, first.float(), second.float(), slope, found.deliveries)
        if grids.has_few_pairs:
            self._count_pairs(grids, found)
        self._expect(grids, found)
        return found

    def _make_room(self, piece: int) -> None:
        if piece <= self._room:
            return
        self._room = piece
        self._raw = (bytearray(8 * piece), bytearray(8 * piece))
        self._pairs = PairCounter(piece)

    def _count_pairs(self, grids: TensorGrids, found: TensorComparison) -> None:
        seen = torch.zeros(VALUES, dtype=torch.float64)
        for first, second, times in self._pairs.pairs():
            for begin in range(0, len(first), grids.piece):
                piece = slice(begin, begin + grids.piece)
                before, after = (torch.from_numpy(bits[piece].view(np.int16)) for bits in (first, second))
                often = None if times is None else torch.from_numpy(times[piece]).double()
                self._count(grids, before.view(grids.dtypes[0]), after.view(grids.dtypes[1]), often, found)
                seen += torch.bincount(after.int() & VALUES - 1, often, minlength=VALUES)
        present = seen.nonzero().flatten()
        self._count_itself(grids, every_value(grids.dtypes[1])[present], seen[present], found)

    def _count(
        self, grids: TensorGrids, first: Tensor, second: Tensor, times: Tensor | None, found: TensorComparison
    ) -> None:
        """What concerns a weight of each model: overlap and change, weighted by how often the pair occurs."""
        on_reference, model_on_reference, on_model = grids.encoders()
        codes = [model_on_reference.words(second)]
        if not grids.ranges_are_equal:
            codes.append(on_model.words(second))
        differences = np.stack(codes, axis=1) ^ on_reference.words(first)[:, np.newaxis]
        for word, questions in zip(differences, grids.questions, strict=True):
            lanes = unpacked(word)
            for bits, keys in questions:
                counts = count_equal(lanes, bits, times)
                for lane, key in keys:
                    found.overlaps[key].same += counts[0][lane]
                    found.overlaps[key].own += counts[-1][lane]
        _measure_change(first, second, times, found.change)

    def _count_itself(
        self, grids: TensorGrids, values: Tensor, times: Tensor | None, found: TensorComparison
    ) -> None:
        for lane in grids.lanes:
            for bits in lane.bits:
                kept = torch.from_numpy(grids.keeps_own_index(lane, bits, values))
                times_kept = kept if times is None else times[kept]
                found.overlaps[lane.key(bits)].itself += int(times_kept.sum())

    def _deliver(
        self,
        grids: TensorGrids,
        reference: Tensor,
        model: Tensor,
        gradient: Tensor | None,
        deliveries: dict[str, Delivery],
    ) -> None:
        for used, of_format in zip(grids.formats, grids.of_formats, strict=True):
            by_row = used.buckets.unit(grids.inputs) == grids.inputs
            pair = [weight.view(-1, grids.inputs) if by_row else weight for weight in (reference, model)]
            fitted = [
                used.buckets.fit(weight, grids.inputs, of_tensor, of_model)
                for weight, of_tensor, of_model in zip(pair, of_format, grids.of_model, strict=True)
            ]
            deliveries[used.name] += used.deliver(pair[0], pair[1], fitted[0], fitted[1], gradient)

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


def _measure_change(first: Tensor, second: Tensor, times: Tensor | None, change: Change) -> None:
    """Sums and histogram of |δ|, which is taken in float32 and added up in float64."""
    size = (second.float() - first.float()).abs_()
    exact = size.double()
    times_exact = exact if times is None else exact * times
    change.sum_abs += times_exact.sum().item()
    change.sum_squares += torch.dot(times_exact, exact).item()
    change.largest = max(change.largest, size.max().item())
    assert change.histogram is not None
    bins = size.view(torch.int32) >> 16
    change.histogram += torch.bincount(bins, times, minlength=BINS).long().numpy()
    change.equal = int(change.histogram[0])  # the first bin ends at 1e-40, bfloat16's smallest magnitude
