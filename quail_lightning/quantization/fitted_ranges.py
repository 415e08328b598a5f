"""Which weights a format's levels fit, and the ranges that they are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quail_lightning.errors import InputError
from quail_lightning.quantization.protocol import (
    Bounds,
    Buckets,
    HasBuckets,
    MixedBuckets,
    Quantizer,
    SharesRanges,
)

FROM_WEIGHTS_ALONE = "nf4, fp4, nvfp4, mxfp4, fp8, bf16, GGUF's and the uniform grids, without mixed bits"
"""The shipped precisions whose levels follow from the weights alone."""


def levels_of(quantizer: Quantizer) -> Buckets | MixedBuckets | None:
    """A quantizer's levels; None where they depend on more than the weights."""
    return quantizer.buckets() if isinstance(quantizer, HasBuckets) else None


def refuse_misfits(name: str, levels: Buckets | MixedBuckets, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what the quantizer would refuse.

    Args:
        name: of the precision.
        levels: of it.
        shapes: of the quantized weights.

    Raises:
        InputError: naming weights that do not fit.
    """
    if misfits := levels.misfits(shapes):
        raise InputError(
            f"{name} does not fit {', '.join(misfits[:3])}",
            remedy="Leave this precision out, or write one with another group_size",
        )


def fitted_ranges(levels: Buckets | MixedBuckets, of_tensors: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """The range that each weight's levels are fitted to: its own, or that of all which share one.

    Args:
        levels: of a precision.
        of_tensors: the own range of every quantized weight of a model.
    """
    fitted = dict(of_tensors)
    for group in levels.together(of_tensors) if isinstance(levels, SharesRanges) else []:
        fitted |= dict.fromkeys(group, joined(of_tensors[name] for name in group))
    return fitted


def joined(bounds: Iterable[Bounds]) -> Bounds:
    """The range of several tensors together."""
    lows, highs = zip(*bounds, strict=True)
    return min(lows), max(highs)
