"""NVFP4, MXFP4 and FP8: weights rounded to the nearest floating-point code, in compressed-tensors' formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quail_lightning.functional.float_codes import FloatFormat
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.body import quantized_linears, refuse_broken, refuse_indivisible
from quail_lightning.quantization.body_weights import linear_names
from quail_lightning.quantization.compressor import require_package
from quail_lightning.quantization.float_buckets import FloatBuckets
from quail_lightning.quantization.float_packing import FloatPacking
from quail_lightning.quantization.fused_layers import fused_weights
from quail_lightning.quantization.packed_copy import packed_copy, quiet_packing
from quail_lightning.quantization.protocol import PreTrainedModel

BLOCKS: dict[FloatFormat, int | None] = {"nvfp4": 16, "mxfp4": 32, "fp8": None}
"""Inputs of a row that share a scale; None: the whole row."""


class NarrowFloat:
    """Codes of 4 or 8 bits with scales, rounded to nearest without calibration; see ``functional.float_codes``.

    ``nvfp4``: E2M1 in blocks of 16 inputs with E4M3 scales, and a float32 scale for each tensor, which the layers
    that vLLM fuses (q, k and v; gate and up) have in common. ``mxfp4``: E2M1 in blocks of 32 with powers of two as
    scales. Both quantize the weights alone. ``fp8``: E4M3 with a bfloat16 scale an output row; the activations are
    rounded to E4M3 too, with a scale a token that is taken as it comes, in evaluation as in deployment.

    Codes are made in float32 whatever the model's dtype, so that every machine makes the same. compressed-tensors
    unpacks the 4-bit formats to bfloat16; a model of another dtype holds these values in its own.

    Args:
        format: presets NVFP4A16, MXFP4A16 and FP8_DYNAMIC of compressed-tensors.

    Raises:
        InputError: compressed-tensors is not installed.
    """

    needs_calibration = False
    simulated = False
    unpacks = True
    backend = "compressed-tensors"

    def __init__(self, format: FloatFormat) -> None:
        require_package("compressed_tensors", f"format {format!r}", "'llmcompressor>=0.14,<0.15'")
        self.format: FloatFormat = format

    @property
    def bits(self) -> int:
        """8 for fp8, else 4."""
        return 8 if self.format == "fp8" else 4

    @property
    def stored_bits(self) -> int:
        """As ``bits``."""
        return self.bits

    @property
    def granularity(self) -> str:
        """``group16``, ``group32``, or ``channel``: an output row."""
        block = BLOCKS[self.format]
        return "channel" if block is None else f"group{block}"

    def buckets(self) -> FloatBuckets:
        """See ``HasBuckets``."""
        return FloatBuckets(self.format, BLOCKS[self.format])

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``."""
        names = linear_names(model, self.format)
        refuse_indivisible(
            {name: linear.in_features for name, linear in quantized_linears(model)},
            BLOCKS[self.format],
            f"{self.format} knows no other blocks. Use fp8, int8 or uniform4-channel, which take any size",
        )
        return names

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        from lightning.pytorch.utilities.seed import isolate_rng  # here: it imports transformers

        weights = self.targets(model)
        largest = self._largest(model, weights)
        names = [name.removesuffix(".weight") for name in weights]
        with isolate_rng(), quiet_packing(), torch.no_grad():
            packing = FloatPacking(self.format, names)
            state = model.state_dict()
            for name in weights:
                packed = packing.pack(state.pop(name), largest[name], model.dtype)
                state |= {f"{name.removesuffix('weight')}{leaf}": tensor for leaf, tensor in packed.items()}
            return packed_copy(model, model, state, packing.compressor(model), names)

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy holds the unpacked weights, and is sharded as well."""
        weights = self.targets(model)
        largest = self._largest(model, weights)
        quantized = cast_shards(model, model.dtype)
        with quiet_packing(), torch.no_grad():
            packing = FloatPacking(self.format, [name.removesuffix(".weight") for name in weights])
            for name in weights:
                weight, copied = whole(model.get_parameter(name).detach()), quantized.get_parameter(name)
                rounded = packing.unpack(packing.pack(weight, largest[name], model.dtype)).to(model.dtype)
                share(copied).copy_(rounded[own_rows(copied)])
        for _, layer in quantized_linears(quantized):
            packing.round_inputs(layer)
        return quantized

    def _largest(self, model: PreTrainedModel, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The largest magnitude of every weight, or of all that are fused with it: [] float32.

        Raises:
            InputError: weights that are not finite.
        """
        found = {name: whole(model.get_parameter(name).detach()).abs().amax().float() for name in names}
        refuse_broken([name for name, size in found.items() if not size.isfinite()])
        for group in fused_weights(names):
            found |= dict.fromkeys(group, torch.stack([found[name] for name in group]).amax())
        return found
