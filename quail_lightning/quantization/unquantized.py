"""The 16-bit format: no quantization at all."""

from __future__ import annotations

import copy

from torch import Tensor

from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.protocol import PreTrainedModel


class Unquantized:
    """Copies the model as it is, so that 16 bits is evaluated on the same path as every other format.

    The dtype is kept: who holds float32 masters casts them to the export dtype first.
    """

    bits = 16
    granularity = "none"
    needs_calibration = False
    simulated = False
    stored_bits = 16
    backend = "torch"

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``: none."""
        return []

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        return copy.deepcopy(model)

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy is sharded as well."""
        return cast_shards(model, model.dtype)
