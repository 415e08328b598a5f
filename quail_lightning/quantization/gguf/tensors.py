"""A weight's blocks, and what they stand for."""

from __future__ import annotations

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.functional.ggml_blocks import BlockType, Bytes
from quail_lightning.quantization.gguf.kernels import pack, unpack


def packed(name: str, weight: Tensor, kind: BlockType) -> tuple[Bytes, Tensor]:
    """[rows, bytes] and [rows, inputs] float32.

    Args:
        name: of the weight, for the error.
        weight: [rows, inputs], finite.
        kind: whose block length divides the inputs.

    Raises:
        InputError: a scale is beyond half precision, in which blocks hold it.
    """
    blocks = pack(weight, kind)
    values = unpack(blocks, kind)
    if not is_finite(values):
        raise InputError(
            f"{name} holds weights of up to {weight.abs().max():.3g}, whose scale in {kind} is beyond half "
            "precision",
            remedy="Use nf4 or a uniform grid for this model",
        )
    return blocks, values
