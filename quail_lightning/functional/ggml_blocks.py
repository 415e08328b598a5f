"""The blocks of ggml's quantized tensors: their layout in bytes, and what a weight becomes in each.

A row is cut into blocks; a block holds scales and the weights' indices q. 32 weights (Q6_K: 16) share a step:

=====  ========  =====  =========================  ==================================
type   a block   bytes  weight                     q of the weight x
=====  ========  =====  =========================  ==================================
Q4_0   32        18     d·(q − 8)                  ⌊x/d′ + 8.5⌋ within 0 … 15
Q5_0   32        22     d·(q − 16)                 ⌊x/d′ + 16.5⌋ within 0 … 31
Q5_1   32        24     d·q + m                    ⌊(x − m′)/d′ + 0.5⌋ within 0 … 31
Q8_0   32        34     d·q                        round(x/d′) within ±127
Q4_K   256       144    d·s·q − e·t                round((x + e·t)/(d·s)) within 0 … 15
Q5_K   256       176    d·s·q − e·t                round((x + e·t)/(d·s)) within 0 … 31
Q6_K   256       210    d·s·q                      round(x/(d·s)) within −32 … 31
=====  ========  =====  =========================  ==================================

d, e and m are stored in half precision, d′ and m′ are the same before they are rounded to it; s and t are a
sub-block's scales, integers of 6 bits (Q6_K: s of 8, signed). Steps may be negative. Ties of the K types go to the
even index, those of Q8_0 away from zero. Source: ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BlockType = Literal["Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


class Layout(NamedTuple):
    """Of a block type.

    Attributes:
        number: by which ggml and GGUF files know it.
        weights: in a block; a row must be a multiple of it.
        size: bytes of a block.
        shared: weights that share a step.
        lowest, highest: index.
        centre: index whose weight is the sub-block's shift.
    """

    number: int
    weights: int
    size: int
    shared: int
    lowest: int
    highest: int
    centre: int


LAYOUTS: dict[BlockType, Layout] = {
    "Q4_0": Layout(2, 32, 18, 32, 0, 15, 8),
    "Q5_0": Layout(6, 32, 22, 32, 0, 31, 16),
    "Q5_1": Layout(7, 32, 24, 32, 0, 31, 0),
    "Q8_0": Layout(8, 32, 34, 32, -127, 127, 0),
    "Q4_K": Layout(12, 256, 144, 32, 0, 15, 0),
    "Q5_K": Layout(13, 256, 176, 32, 0, 31, 0),
    "Q6_K": Layout(14, 256, 210, 16, -32, 31, 0),
}


@dataclass(frozen=True, eq=False)
class BlockLevels:
    """A block type with the scales that were fitted to a weight; it may be asked about any weight of that size.

    Attributes:
        kind: the block type.
        step: [n/shared] Δ with its sign, float32.
        shift: [n/shared] what is added to multiples of Δ.
        reciprocal: [n/shared] 1/d′ of the types without K, else empty.
        start: [n/shared] m′ of Q5_1, else the shift.
    """

    kind: BlockType
    step: Tensor
    shift: Tensor
    reciprocal: Tensor
    start: Tensor

    def to(self, device: torch.device) -> BlockLevels:
        """The same levels on a device."""
        tensors = (self.step, self.shift, self.reciprocal, self.start)
        return BlockLevels(self.kind, *(tensor.to(device) for tensor in tensors))

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight: int32, shaped like ``weight``.

        In a sub-block whose step is 0 weights above its one value, equal to it and below have a bucket each.

        Args:
            weight: as many values as were fitted, row by row, of any shape.
        """
        offset = weight.float().reshape(len(self.step), -1) - self.start.unsqueeze(-1)
        return self._bucket(offset).reshape(weight.shape)

    def zero(self) -> Tensor:
        """[n/shared] the bucket of the weight 0, int32."""
        return self._bucket(-self.start.unsqueeze(-1)).flatten()

    def _bucket(self, position: Tensor) -> Tensor:
        """Of weights [n/shared, any number] less the start; what is given is overwritten."""
        layout = LAYOUTS[self.kind]
        empty = self.step == 0
        side = position[empty].sign()
        if self.kind.endswith("_K"):
            position.div_(self.step.unsqueeze(-1)).round_()
        elif self.kind == "Q8_0":
            # to the nearest: adding one half to 0.49999997 would give 1
            whole = position.mul_(self.reciprocal.unsqueeze(-1)).trunc()
            position.sub_(whole).mul_(2).trunc_().add_(whole)
        else:
            position.mul_(self.reciprocal.unsqueeze(-1)).add_(layout.centre + 0.5).trunc_()
        position.clamp_(layout.lowest, layout.highest)
        position[empty] = layout.centre + side
        return position.to(torch.int32)

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for, float32, shaped like ``index``."""
        steps = index.reshape(len(self.step), -1).float() - LAYOUTS[self.kind].centre
        return (steps * self.step.unsqueeze(-1) + self.shift.unsqueeze(-1)).reshape(index.shape)

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket, float32, shaped like ``index``."""
        blocks = index.reshape(len(self.step), -1)
        return self.step.abs().unsqueeze(-1).expand_as(blocks).reshape(index.shape)


def levels(weight: Tensor, packed: Bytes, kind: BlockType) -> BlockLevels:
    """The levels of a quantized weight.

    Args:
        weight: [rows, inputs] float32, of which ``packed`` was made.
        packed: [rows, bytes] its blocks.
        kind: their type.
    """
    layout = LAYOUTS[kind]
    blocks = packed.reshape(-1, layout.size)
    nothing = np.empty(0, np.float32)
    if layout.weights == 256:
        step, shift = _super_blocks(blocks, kind)
        reciprocal, start = nothing, shift
    else:
        step = _half(blocks, 0)
        shift = _half(blocks, 2) if kind == "Q5_1" else np.zeros_like(step)
        scale, start = _unrounded(weight.numpy().reshape(-1, layout.weights), kind)
        reciprocal = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return BlockLevels(kind, *(torch.from_numpy(each) for each in (step, shift, reciprocal, start)))


def _unrounded(blocks: Floats, kind: BlockType) -> tuple[Floats, Floats]:
    """d′ and m′ of the types without K."""
    zero = np.zeros(len(blocks), np.float32)
    if kind == "Q5_1":
        low, high = blocks.min(axis=1), blocks.max(axis=1)
        return (high - low) / np.float32(31), low
    # the first of the largest magnitude, with its sign: the outermost index is negative
    outermost = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    if kind == "Q8_0":
        return np.abs(outermost) / np.float32(127), zero
    return outermost / np.float32(-LAYOUTS[kind].centre), zero


def _super_blocks(blocks: Bytes, kind: BlockType) -> tuple[Floats, Floats]:
    """Step and shift of each sub-block of the K types."""
    if kind == "Q6_K":
        scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
        step = (_half(blocks, 208)[:, None] * scales).reshape(-1)
        return step, np.zeros_like(step)
    # twelve bytes hold eight scales and eight minima of 6 bits: four of each whole, the others in two parts
    first, second, mixed = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([first & 63, (mixed & 15) | (first >> 6 << 4)], axis=1).astype(np.float32)
    minima = np.concatenate([second & 63, (mixed >> 4) | (second >> 6 << 4)], axis=1).astype(np.float32)
    step = (_half(blocks, 0)[:, None] * scales).reshape(-1)
    return step, -(_half(blocks, 2)[:, None] * minima).reshape(-1)


def _half(blocks: Bytes, start: int) -> Floats:
    """A number in half precision of each block."""
    found: Floats = blocks[:, start : start + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return found
