"""NaN and infinity among loaded weights: refused by file and tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.models.loading_report import some
from quail_lightning.models.weight_files import DTYPES, WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def refuse_non_finite(name: str, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """One pass over the weights, without a copy.

    Args:
        name: of the checkpoint.
        model: loaded; of quantized weights, which are whole numbers, the scales count.
        dtype: that it was loaded in.

    Raises:
        InputError: naming file and tensor.
    """
    if broken := [key for key, weight in model.state_dict().items() if is_broken(weight)]:
        raise non_finite(name, broken, dtype)


def is_broken(weight: Tensor) -> bool:
    """Whether a weight holds NaN or infinity; False for floats of one byte, which torch does not compare."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1 and not is_finite(weight.detach())


def non_finite(name: str, broken: Sequence[str], dtype: torch.dtype) -> InputError:
    """The error of such weights; their files are read again to name the stored tensor."""
    with WeightFiles(name) as files:
        for key, stored in files.stored.items():
            if stored.dtype in DTYPES and is_broken(files.read(key, 0, math.prod(stored.shape))):
                return InputError(
                    f"{key} in {stored.file} holds NaN or infinity",
                    remedy="The training that made it diverged, or the file is damaged: take another checkpoint",
                )
    return InputError(
        f"{some(broken)} in {name!r}: values too large for {dtype}", remedy="Use bf16, which has float32's range"
    )
