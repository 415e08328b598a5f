"""Pairs (w, w′) of 16-bit weights, counted.

There are far fewer different pairs than weights: unlearning moves a weight by few units in the last place, so that
ten million of them make about a hundred thousand pairs. What is asked of every weight is then asked once of
every pair.

A pair is near where w is at most 2^16 (float16: 2^8) times smaller than the largest weight and w′ lies at most 32
units in the last place away. Near pairs are counted in a table; the others, at most a few per cent of an ordinary
model, are passed on one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

MAGNITUDE_BITS = {torch.bfloat16: 11, torch.float16: 13}  # 16 and 8 powers of two
DISTANCE_BITS = 6  # the table, 2 MB, must be small enough for a core to find its pages
CHUNK = 2**22  # keys that are counted at once: a table of counts is filled with zeros each time

Words = NDArray[np.uint16]


class PairCounter:
    """One thread's memory for counting pairs; ``start``, then ``add`` of piece after piece, then ``pairs``.

    Args:
        piece: the largest number of weights that are added at once.
    """

    def __init__(self, piece: int) -> None:
        self._keys = np.empty(max(CHUNK, piece), np.uint32)
        self._rotated, self._scratch, self._distance = (np.empty(piece, np.uint16) for _ in range(3))
        self._far, self._outside = np.empty(piece, np.bool_), np.empty(piece, np.bool_)

    def start(self, dtype: torch.dtype, largest: float) -> None:
        """Forget what was counted.

        Args:
            dtype: of both weights, a key of ``MAGNITUDE_BITS``.
            largest: max|w|.
        """
        bits = MAGNITUDE_BITS[dtype]
        top = int(torch.tensor(largest, dtype=dtype).view(torch.int16).item())
        self._lowest = np.uint16(2 * max(0, top + 1 - 2**bits))
        self._patterns = 2 ** (bits + 1)  # magnitudes of either sign
        self._bins = self._patterns * 2**DISTANCE_BITS
        self._counts = torch.zeros(self._bins + 1, dtype=torch.int64)  # the last one is of far pairs
        self._filled = 0
        self._far_pairs: list[tuple[Words, Words]] = []

    def add(self, first: Words, second: Words) -> None:
        """Count pairs.

        Args:
            first: [n] the bits of w.
            second: [n] the bits of w′.
        """
        count = len(first)
        if self._filled + count > len(self._keys):
            self._count()
        rotated, scratch, distance = (memory[:count] for memory in (self._rotated, self._scratch, self._distance))
        far, outside = self._far[:count], self._outside[:count]
        # the sign goes last, so that one difference says whether the magnitude lies in the table
        np.left_shift(first, 1, out=rotated)
        np.right_shift(first, 15, out=scratch)
        np.bitwise_or(rotated, scratch, out=rotated)
        np.subtract(rotated, self._lowest, out=rotated)
        np.subtract(second, first, out=distance)
        np.add(distance, np.uint16(2 ** (DISTANCE_BITS - 1)), out=distance)
        np.greater_equal(rotated, self._patterns, out=far)
        np.greater_equal(distance, 2**DISTANCE_BITS, out=outside)
        np.logical_or(far, outside, out=far)
        keys = self._keys[self._filled : self._filled + count]
        np.copyto(keys, rotated)
        np.left_shift(keys, DISTANCE_BITS, out=keys)
        np.add(keys, distance, out=keys)
        where = np.flatnonzero(far)
        if len(where):
            keys[where] = self._bins
            self._far_pairs.append((first[where], second[where]))
        self._filled += count

    def pairs(self) -> Iterator[tuple[Words, Words, NDArray[np.int64] | None]]:
        """[n] the bits of w and of w′ and how often the pair occurred: once where None.

        A far pair comes as often as it occurred.
        """
        self._count()
        found = self._counts[: self._bins].nonzero().flatten()
        times, keys = self._counts[found].numpy(), found.numpy()
        rotated = (keys >> DISTANCE_BITS).astype(np.uint16) + self._lowest
        first: Words = np.bitwise_or(rotated >> 1, rotated << 15, dtype=np.uint16)
        distance = (keys & (2**DISTANCE_BITS - 1)).astype(np.uint16)
        second: Words = first + distance - np.uint16(2 ** (DISTANCE_BITS - 1))
        yield first, second, times
        if self._far_pairs:
            firsts, seconds = zip(*self._far_pairs, strict=True)
            yield np.concatenate(firsts), np.concatenate(seconds), None

    def _count(self) -> None:
        if self._filled:
            keys = torch.from_numpy(self._keys[: self._filled].view(np.int32))
            self._counts += torch.bincount(keys, minlength=self._bins + 1)
            self._filled = 0
