"""Bucket indices of several grids at once, packed so that they are compared at once.

A lane is 16 bits and holds one grid's index, counted from 0 and shifted to the lane's top; four lanes make a
word, and a weight has one or more words. On ``minmax-floor`` grids over one range the index at N bits is the upper
N bits of the index at more: Δ doubles with each bit less, which floating-point division follows exactly. So one
lane serves all bit widths, and two weights share a bucket of N bits where their lanes' exclusive or is below
2^(16 − N).

Indices are ``Grid.index`` in float64.
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


def codes(weight: Tensor, grid: Grid) -> NDArray[np.uint16]:
    """[n] one grid's lane of each weight.

    Args:
        weight: [n], finite.
        grid: in float64, with one step.
    """
    index: NDArray[np.int32] = (grid.index(weight.double()) - grid.lowest).numpy()
    return np.left_shift(index, 16 - grid.bits).astype(np.uint16)


def packed(lanes: Sequence[NDArray[np.uint16]]) -> NDArray[np.int64]:
    """[words, n] the lanes, four to a word; what is missing of the last word is 0.

    Args:
        lanes: each [n].
    """
    words = np.zeros((-(-len(lanes) // LANES), len(lanes[0]), LANES), np.uint16)
    for number, each in enumerate(lanes):
        words[number // LANES, :, number % LANES] = each
    return words.reshape(len(words), -1).view(np.int64)


def every_value(dtype: torch.dtype) -> Tensor:
    """[65536] each value of a 16-bit dtype, NaN and infinities included, in the order of its bits."""
    return torch.arange(VALUES, dtype=torch.int32).to(torch.int16).view(dtype)


def bits_of(values: Tensor) -> NDArray[np.uint16]:
    """The bits of 16-bit values, which are their places among ``every_value``."""
    words: NDArray[np.uint16] = values.view(torch.int16).numpy().view(np.uint16)
    return words


def unpacked(words: NDArray[np.int64]) -> NDArray[np.uint16]:
    """[m, 4, n] the lanes of words [m, n]."""
    return np.ascontiguousarray(words.view(np.uint16).reshape(*words.shape, LANES).swapaxes(1, 2))


def count_equal(differences: NDArray[np.uint16], bits: int, times: Tensor | None) -> list[list[int]]:
    """How many weights agree in the upper ``bits`` bits of each lane: [m][4].

    Args:
        differences: [m, 4, n] exclusive or of lanes.
        bits: 1 … 16.
        times: [n] float64, how often each weight counts: whole numbers, whose sums are exact up to 2^53. Once if
            None.
    """
    equal = differences < 2 ** (16 - bits)
    if times is None:
        return [[int(np.count_nonzero(lane)) for lane in row] for row in equal]
    counts: list[list[int]] = torch.matmul(torch.from_numpy(equal).double(), times).long().tolist()
    return counts
