"""No quantization: the weights in a floating dtype."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from quail_lightning.models.casting import Cast, copy_with
from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.buckets import CastBuckets
from quail_lightning.quantization.protocol import PreTrainedModel


class Unquantized:
    """A copy in a floating dtype, so that it is evaluated on the same path as every other format.

    Args:
        dtype: of all weights; wider ones are cast to the nearest value.
    """

    granularity = "none"
    needs_calibration = False
    simulated = False
    backend = "torch"

    def __init__(self, dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16") -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.bits = self.stored_bits = 8 * self.dtype.itemsize

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``: none."""
        return []

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        copied = copy_with(model, Cast(self.dtype))
        copied.config.dtype = self.dtype
        return copied

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy is sharded as well."""
        return cast_shards(model, self.dtype)

    def buckets(self) -> CastBuckets:
        """See ``HasBuckets``: the values of the dtype."""
        return CastBuckets(self.dtype)
