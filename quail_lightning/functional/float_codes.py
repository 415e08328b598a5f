"""E2M1 and E4M3: the floating-point codes of 4 and 8 bits, and how NVFP4, MXFP4 and FP8 scale a weight to them.

======  ==========================  =============================================================  ===============
format  scale of                    value of the scale                                             code
======  ==========================  =============================================================  ===============
nvfp4   16 inputs of a row          E4M3(min(448, g·max/6)) / g, with g = 448·6 / largest          E2M1
mxfp4   32 inputs of a row          2^(⌊log2(8·max/7)⌋ − 2), from 2^−127 on                        E2M1
fp8     a row                       bfloat16(max / 448)                                            E4M3
======  ==========================  =============================================================  ===============

``max`` is the largest magnitude that shares the scale, ``largest`` that of the tensors that share g. A weight
becomes the code nearest to weight / scale, the even one at a tie, the outermost one beyond it; all in float32.

Sources: OCP Microscaling Formats (MX) Specification 1.0 (E2M1, E8M0, blocks of 32); OCP 8-bit Floating Point
Specification 1.0 (E4M3 without infinities); NVIDIA's description of NVFP4. The power of two is that which
compressed-tensors takes: of the largest magnitude, and the next one from a significand of 1.75 on, so that no more
than a seventh of a block's largest weight is cut off; the procedure of MX 1.0 (section 6.3) never takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

FloatFormat = Literal["nvfp4", "mxfp4", "fp8"]

E2M1_LARGEST, E4M3_LARGEST = 6.0, 448.0
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E4M3_CODES = 127  # magnitudes, 0 among them; the last pattern is NaN


@dataclass(frozen=True, eq=False)
class ScaledFloat:
    """A floating-point code with the scales fitted to a weight.

    Attributes:
        bits: of a code: 4 (E2M1) or 8 (E4M3).
        scale: [blocks] what a code is multiplied with, float32, above 0; a block's weights are consecutive.
    """

    bits: Literal[4, 8]
    scale: Tensor

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight: int32, shaped like ``weight``, from 0 for the lowest level.

        Args:
            weight: float32, as many values as were fitted.
        """
        scaled = (self._blocks(weight) / self.scale.unsqueeze(-1)).flatten()
        number = _e2m1_number(scaled) if self.bits == 4 else _e4m3_number(scaled)
        return (number + _highest(self.bits)).to(torch.int32).reshape(weight.shape)

    def zero(self) -> Tensor:
        """[1] the bucket of the weight 0 in every block, int32."""
        return torch.tensor([_highest(self.bits)], dtype=torch.int32, device=self.scale.device)

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for, float32, shaped like ``index``."""
        return self._scaled(levels(self.bits), index)

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket, from boundary to boundary; the outermost end at the outermost level."""
        return self._scaled(_widths(self.bits), index)

    def _scaled(self, table: Tensor, index: Tensor) -> Tensor:
        found = table.to(index.device).index_select(0, index.flatten())
        return self._blocks(found).mul_(self.scale.unsqueeze(-1)).reshape(index.shape)

    def _blocks(self, values: Tensor) -> Tensor:
        return values.reshape(len(self.scale), -1)


def fit_float(weight: Tensor, name: FloatFormat, block: int, largest: float) -> ScaledFloat:
    """Scale a code to a weight.

    Args:
        weight: finite, float32; a multiple of ``block`` values.
        name: which format.
        block: weights consecutive in memory that share a scale: 16, 32, or a row.
        largest: largest magnitude of all weights that share g; of ``nvfp4`` only.
    """
    peak = weight.reshape(-1, block).abs().amax(dim=-1)
    if name == "fp8":
        return ScaledFloat(8, _or_else(peak / E4M3_LARGEST, 2.0**-23).bfloat16().float())
    if name == "mxfp4":
        return ScaledFloat(4, _power_of_two(peak))
    shared = _nvfp4_global(largest)
    local = (shared * (peak / E2M1_LARGEST)).clamp(max=E4M3_LARGEST).to(torch.float8_e4m3fn).float()
    return ScaledFloat(4, _or_else(local, 0.125) / shared)


def levels(bits: Literal[4, 8]) -> Tensor:
    """[15] of E2M1 or [253] of E4M3, ascending, float32; both zeros are one."""
    return _levels(bits).clone()


def _nvfp4_global(largest: float) -> Tensor:
    peak = torch.tensor(largest).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.nan_to_num(E4M3_LARGEST * E2M1_LARGEST / peak, posinf=1.0)


def _power_of_two(peak: Tensor) -> Tensor:
    """The float32 exponent of 8/7 of the peak, by the bits: a significand from 1.75 on carries into it."""
    exponent = ((peak.view(torch.int32) + 2**21) >> 23) - 2
    # as bits of a float32; the smallest scale of E8M0, 2^-127, lies below the normal numbers
    return torch.where(exponent > 0, exponent << 23, 2**22).to(torch.int32).view(torch.float32)


def _or_else(scale: Tensor, instead: float) -> Tensor:
    """A block of zeros, or of next to nothing, has codes of 0 whatever its scale."""
    return torch.where(scale == 0, instead, scale)


def _e2m1_number(scaled: Tensor) -> Tensor:
    """−7 … 7, the code's place on either side of 0."""
    size = scaled.abs().clamp_(max=E2M1_LARGEST)
    # steps of ½ up to 2, of 1 up to 4, of 2 above; round goes to the even code in each of them
    number = (size * 2).round_()
    torch.minimum(number, size.round().add_(2), out=number)
    torch.minimum(number, (size / 2).round_().add_(4), out=number)
    return number.copysign_(scaled)


def _e4m3_number(scaled: Tensor) -> Tensor:
    """−126 … 126."""
    bits = scaled.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn).view(torch.uint8).to(torch.int16)
    size = bits & _E4M3_CODES
    return torch.where(bits > _E4M3_CODES, -size, size)


@cache
def _levels(bits: int) -> Tensor:
    if bits == 4:
        sizes = torch.tensor(_E2M1)
    else:
        sizes = torch.arange(_E4M3_CODES, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return torch.cat([-sizes[1:].flip(0), sizes])


@cache
def _widths(bits: int) -> Tensor:
    table = _levels(bits)
    bounds = torch.cat([table[:1], (table[:-1] + table[1:]) / 2, table[-1:]])
    return bounds.diff()


def _highest(bits: int) -> int:
    return len(_levels(bits)) // 2
