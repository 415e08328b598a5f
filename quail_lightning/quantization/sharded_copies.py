"""Which precisions a model that is spread over the devices can be judged at, and how wide their copies are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quail_lightning.errors import InputError
from quail_lightning.quantization.protocol import Quantizer, QuantizesShards
from quail_lightning.quantization.uniform import Uniform
from quail_lightning.quantization.unquantized import Unquantized


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
            allowed=f"{', '.join(able)}; nf4, fp4, int8 and the uniform grids are made from shards",
            remedy="Leave them out and judge the saved model by `quail evaluate` where it fits, or take devices "
            "that hold a whole copy (evaluation.sharded: false)",
        )


def widest_copy(quantizers: Iterable[Quantizer]) -> int:
    """Bits of a weight in the widest quantized copy as it lies in memory; 0 where there is none.

    What is simulated takes 16, and so does what is calibrated, while it is made.
    """
    lossy = [quantizer for quantizer in quantizers if not isinstance(quantizer, Unquantized)]
    return max((16 if isinstance(q, Uniform) or q.needs_calibration else q.bits for q in lossy), default=0)
