"""Bucket indices of several grids at once, packed so that they are compared at once.

A lane is 16 bits and holds one grid's index, counted from 0 and shifted to the lane's top; four lanes make a
word, and a weight has one or more words. On ``minmax-floor`` grids over one range the index at N bits is the upper
N bits of the index at more: Δ doubles with each bit less, which floating-point division follows exactly. So one
lane serves all bit widths, and two weights share a bucket of N bits where their lanes' exclusive or is below
2^(16 − N).

Indices are ``Grid.index`` in float64, of each weight or, for 16-bit dtypes, of the 65,536 values there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quail_lightning.functional.affine_grid import Grid

LANES = 4  # a word
VALUES = 2**16  # of a 16-bit dtype
ROWS = 128  # flags that are added up bytewise before a byte overflows at 256


def encode(weight: Tensor, grids: Sequence[Grid]) -> NDArray[np.int64]:
    """The packed indices of weights: [words, len(weight)].

    Args:
        weight: [n], finite.
        grids: in float64, with one step each.
    """
    exact = weight.double()
    lanes = np.zeros((-(-len(grids) // LANES), len(weight), LANES), np.uint16)
    for number, grid in enumerate(grids):
        index = (grid.index(exact) - grid.lowest).numpy()
        lanes[number // LANES, :, number % LANES] = index.astype(np.uint16) << (16 - grid.bits)
    return lanes.reshape(len(lanes), -1).view(np.int64)


def every_value(dtype: torch.dtype) -> Tensor:
    """[65536] each value of a 16-bit dtype, NaN and infinities included, in the order of its bits."""
    return torch.arange(VALUES, dtype=torch.int32).to(torch.int16).view(dtype)


class Encoder:
    """``encode`` for many weights of one dtype.

    Args:
        grids: see ``encode``.
        dtype: of the weights.
        size: how many there will be; few are encoded one by one, more are looked up where 16 bits allow it.
    """

    def __init__(self, grids: Sequence[Grid], dtype: torch.dtype, size: int) -> None:
        self._grids = grids
        self._table: list[Tensor] | None = None
        if dtype.itemsize == 2 and size > VALUES:
            # NaN among the values has no index; no weight is NaN
            self._table = [torch.from_numpy(word) for word in encode(every_value(dtype).nan_to_num(), grids)]

    def word(self, number: int, weight: Tensor, pattern: Tensor | None, out: Tensor) -> Tensor:
        """[n] one packed word of each weight.

        Args:
            number: which word.
            weight: [n].
            pattern: [n] the weights' bits as int32 from 0 to 65,535; needed for 16-bit dtypes only.
            out: [n] int64, which is filled and returned.
        """
        if self._table is None:
            return out.copy_(torch.from_numpy(encode(weight, self._grids)[number]))
        assert pattern is not None
        return torch.index_select(self._table[number], 0, pattern, out=out)


def flags_for(words: int) -> NDArray[np.bool_]:
    """The memory that ``count_equal`` works in, for two times so many words."""
    return np.empty((2, -(-words // ROWS) * ROWS * LANES), np.bool_)


def count_equal(differences: NDArray[np.int64], bits: int, flags: NDArray[np.bool_]) -> list[list[int]]:
    """How many words have lanes that agree in their upper ``bits`` bits: a row of four lanes for each row.

    Args:
        differences: [1 or 2, n] exclusive or of packed words.
        bits: 1 … 16.
        flags: ``flags_for`` at least n words.
    """
    lanes = differences.view(np.uint16)
    count = lanes.shape[1]
    padded = flags[: len(lanes), : -(-count // (LANES * ROWS)) * LANES * ROWS]
    np.less_equal(lanes, np.uint16(2 ** (16 - bits) - 1), out=padded[:, :count])
    padded[:, count:] = False
    counts = []
    for row in padded:
        # four flags to a 32-bit number; no byte overflows into the next
        summed = np.add.reduce(row.view(np.uint32).reshape(ROWS, -1), axis=0, dtype=np.uint32)
        counts.append(summed.view(np.uint8).reshape(-1, LANES).sum(axis=0, dtype=np.int64).tolist())
    return counts
