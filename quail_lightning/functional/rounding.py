"""Rounding to a floating dtype: to the nearest value, or so that small changes arrive in the mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**20  # values whose 64-bit counters are held at once
_MASK = {30: 2**34 - 1, 27: 2**37 - 1, 31: 2**33 - 1}  # what a shift of so many bits leaves of 64


@dataclass(frozen=True)
class NearestValue:
    """The values of a dtype as buckets of the weights that are nearest to each.

    Attributes:
        dtype: a floating one of at most 32 bits.
    """

    dtype: torch.dtype

    def index(self, weight: Tensor) -> Tensor:
        """The bits of the nearest value: int32, shaped like ``weight``; both zeros are one."""
        return (weight.to(self.dtype) + 0.0).view(self._bits).to(torch.int32)

    def zero(self) -> Tensor:
        """[1] the bucket of the weight 0, int32."""
        return torch.zeros(1, dtype=torch.int32)

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for, float32, shaped like ``index``."""
        return index.to(self._bits).view(self.dtype).float()

    def width(self, index: Tensor) -> Tensor:
        """From each weight's value to the next larger one in magnitude."""
        magnitude = index & (2 ** (8 * self.dtype.itemsize - 1) - 1)
        return self.value(magnitude + 1) - self.value(magnitude)

    @property
    def _bits(self) -> torch.dtype:
        return torch.int16 if self.dtype.itemsize == 2 else torch.int32


def round_stochastically(values: Tensor, dtype: torch.dtype, key: int, start: int = 0) -> Tensor:
    """Each value goes to one of its two neighbours in ``dtype``, the nearer the likelier: the mean is the value.

    What ``dtype`` holds exactly stays as it is, and so does what is not finite or beyond its range.

    Worked: bfloat16 has 1 and 1.0078125; of values of 1.001953125, a quarter of the way, a quarter goes up.

    Args:
        values: of any shape, float32 or float64; no gradient flows.
        dtype: bfloat16 or float16.
        key: names the draws, see ``uniform_draws``.
        start: number of the first value within a larger tensor of which these are consecutive ones.

    Returns:
        of the shape of ``values``, in ``dtype``.
    """
    flat = values.detach().reshape(-1)
    rounded = torch.empty_like(flat, dtype=dtype)
    for first in range(0, len(flat), CHUNK):
        exact = flat[first : first + CHUNK]
        near = exact.to(dtype)
        rest = exact - near.to(exact.dtype)
        other = _neighbour(near, rest)
        gap = (other.to(exact.dtype) - near.to(exact.dtype)).abs()
        draws = uniform_draws(key, start + first, len(exact), exact.device).to(exact.dtype)
        away = near.isfinite() & (rest.abs() > draws * gap)
        rounded[first : first + CHUNK] = torch.where(away, other, near)
    return rounded.view(values.shape)


def uniform_draws(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Numbers ``start`` to ``start + count − 1`` of a sequence in [0, 1): the same on every device.

    SplitMix64 (Steele, Lea & Flood 2014), whose n-th number needs none of those before it.

    Args:
        key: of the sequence, 64 bits.
        start: number of the first one.
        count: how many.
        device: where they are to lie.

    Returns:
        [count] float32, multiples of 2⁻²⁴.
    """
    state = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=device)  # integers wrap around
    state = state * _signed(0x9E3779B97F4A7C15) + _signed(key)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    state = state ^ _shifted(state, 31)
    return (state & (2**24 - 1)).float() * 2.0**-24


def _neighbour(near: Tensor, rest: Tensor) -> Tensor:
    """The next value of a 16-bit dtype in the direction of ``rest``."""
    grows = (rest > 0) == (near > 0)  # in magnitude, which the bits follow
    bits = near.view(torch.int16) + torch.where(grows, 1, -1).to(torch.int16)
    smallest = torch.where(rest > 0, 1, -(2**15) + 1).to(torch.int16)  # ± the smallest, next to 0
    return torch.where(near == 0, smallest, bits).view(near.dtype)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """To the right, as if there were no sign."""
    return (state >> bits) & _MASK[bits]


def _signed(number: int) -> int:
    """A 64-bit number as torch's int64 holds it."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number
