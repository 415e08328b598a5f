"""Which precisions a model that is spread over the devices can be evaluated at, and how wide their copies are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from quail_lightning.errors import InputError
from quail_lightning.quantization.architecture import WORTH_SAYING
from quail_lightning.quantization.body_weights import quantized_share
from quail_lightning.quantization.protocol import PreTrainedModel, Quantizer, QuantizesShards, Unpacks


def check_shards(quantizers: Mapping[str, Quantizer], option: str) -> None:
    """Refuse precisions that need a whole 16-bit model on a device.

    Args:
        quantizers: by the names of their precisions.
        option: that named them.

    Raises:
        InputError: naming them.
    """
    whole = [name for name, quantizer in quantizers.items() if not isinstance(quantizer, QuantizesShards)]
    if whole:
        able = [name for name in quantizers if name not in whole]
        raise InputError(
            f"{', '.join(whole)} need the whole 16-bit model on one device, and the evaluation is sharded, since "
            "that was asked for or since a whole copy does not fit",
            given=f"{option}: {', '.join(quantizers)}",
            allowed=f"{', '.join(able)}; nf4, fp4, int8, nvfp4, mxfp4, fp8, GGUF's and the uniform grids are made "
            "from shards",
            remedy="Leave them out and run `quail evaluate` on the saved model where it fits, or take devices "
            "that hold a whole copy (evaluation.sharded: false)",
        )


def widest_copy(quantizers: Iterable[Quantizer], model: PreTrainedModel) -> int:
    """Bits of a weight in the widest quantized copy as it lies in memory, on average; 0 where there is none.

    What is simulated takes the model's own, and so does what is calibrated, while it is made, what is unpacked at
    the first forward pass, and what a format leaves out.

    Args:
        quantizers: that ``check_quantizers`` let pass.
        model: may be on the meta device.
    """
    return max((_bits_in_memory(quantizer, model) for quantizer in quantizers), default=0)


def _bits_in_memory(quantizer: Quantizer, model: PreTrainedModel) -> int:
    whole, bits = 8 * model.dtype.itemsize, quantizer.stored_bits
    is_unpacked = isinstance(quantizer, Unpacks) and quantizer.unpacks
    if quantizer.simulated or quantizer.needs_calibration or is_unpacked:
        return whole
    if not (targets := quantizer.targets(model)):
        return bits if bits < whole else 0  # no other than the model itself
    share = quantized_share(model, targets)
    return ceil(share * bits + (1 - share) * whole) if share < WORTH_SAYING else bits
