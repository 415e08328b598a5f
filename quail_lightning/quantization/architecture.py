"""What an architecture can be quantized to, and how much of it, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from quail_lightning.errors import InputError
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization.body_weights import quantized_share
from quail_lightning.quantization.protocol import Quantizer, Remarks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WORTH_SAYING = 0.995  # share of the body; routers are less than the rest


def check_quantizers(
    config: PreTrainedConfig, quantizers: Mapping[str, Quantizer], dtype: torch.dtype = torch.bfloat16
) -> dict[str, float]:
    """Refuse precisions that an architecture cannot be quantized to.

    Args:
        config: of the checkpoint.
        quantizers: by the names of their precisions.
        dtype: that the weights will have.

    Returns:
        precision → the share of the body's weights that it quantizes, 0 … 1.

    Raises:
        InputError: naming every such precision with its reason; or the config is of no causal language model.
    """
    model = empty_model(config, dtype)
    shares: dict[str, float] = {}
    problems: list[tuple[str, InputError]] = []
    for name, quantizer in quantizers.items():
        try:
            shares[name] = quantized_share(model, quantizer.targets(model))
        except InputError as problem:
            problems.append((name, problem))
    if problems:
        *others, (name, last) = problems
        told = [f"{other}: {problem}" for other, problem in others]
        raise InputError(
            " ".join([*told, f"{name}: {last.fact}"]), given=last.given, allowed=last.allowed, remedy=last.remedy
        )
    return shares


def remarks(
    config: PreTrainedConfig, quantizers: Mapping[str, Quantizer], dtype: torch.dtype = torch.bfloat16
) -> str:
    """What precisions say of an architecture (``Remarks``), in sentences; empty where they say nothing.

    Args:
        config: see ``check_quantizers``, which let it pass.
        quantizers: likewise.
        dtype: likewise.
    """
    speaking = {name: each for name, each in quantizers.items() if isinstance(each, Remarks)}
    if not speaking:
        return ""
    model = empty_model(config, dtype)
    told = {name: each.remark(model) for name, each in speaking.items()}
    return " ".join(f"{name}: {remark}." for name, remark in told.items() if remark)


def partly_quantized(shares: Mapping[str, float]) -> str:
    """A sentence about the precisions that leave a part of the body at 16 bits; empty where there is none.

    Args:
        shares: precision → share of the body's weights; 16-bit precisions have 0 and are not named.
    """
    told = [
        f"{name} quantizes {described_share(share)}" for name, share in shares.items() if 0 < share < WORTH_SAYING
    ]
    return "" if not told else "; ".join(told) + ": the rest stays at 16 bits (docs/quantizers.md)."


def described_share(share: float) -> str:
    """``11 % of the body's weights``."""
    return f"{100 * share:.0f} % of the body's weights"
