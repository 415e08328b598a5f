"""A deployment format: what is done to a model before it is evaluated, and the name of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch

from quail_lightning.attacks import Chain, available_attacks, load_attack
from quail_lightning.errors import InputError
from quail_lightning.quantization import Quantizer, available_precisions, load_quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AS_STORED = "as stored"
THEN = "+"
"""Between the steps of a chain: ``prune30+nf4``."""

UNQUANTIZED = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
"""Dtype in which a model is exported → name of the precision that every other one is compared with."""


@dataclass(frozen=True)
class Precision:
    """One deployment format, after the attacks that come before it.

    Attributes:
        name: as it was asked for, and as rows show it.
        config: stem of ``configs/quantizer/<config>.yaml``, or ``AS_STORED``.
        quantizer: of that file.
        dtype: that the model is held in before it is quantized.
        attacks: made on that model, in this order, before it is quantized.
    """

    name: str
    config: str
    quantizer: Quantizer
    dtype: torch.dtype = torch.bfloat16
    attacks: Chain = ()

    @property
    def chain(self) -> tuple[str, ...]:
        """Names of the attacks."""
        return tuple(each.name for each in self.attacks)

    @property
    def is_plain(self) -> bool:
        """Whether the model itself, neither attacked nor quantized by us, is what is deployed."""
        return not self.attacks and self.quantizer.granularity == "none"

    def is_had_by(self, model: PreTrainedModel) -> bool:
        """Whether a model that was loaded, and attacked, is already the copy that is evaluated."""
        return self.config == AS_STORED or getattr(self.quantizer, "dtype", None) == model.dtype


def named_precision(
    name: str, shown: str | None = None, dtype: torch.dtype = torch.bfloat16, sixteen_bits: str = "bf16"
) -> Precision:
    """The precision of a name: attacks and a quantizer, joined by ``+``; either may be missing.

    Worked: ``nf4``; ``prune30``; ``prune30+nf4``; ``prune30+relearn100+nf4``.

    Args:
        name: stems of ``configs/attack/*.yaml``, then one of ``configs/quantizer/*.yaml``.
        shown: as rows show it; None: the same.
        dtype: that the model is held in before it is quantized; what is not quantized has its own.
        sixteen_bits: what is deployed where no quantizer is named.

    Raises:
        InputError: no such quantizer or attack, or an attack after a quantizer.
    """
    *before, last = name.split(THEN)
    attacks, formats = available_attacks(), available_precisions()
    if early := [part for part in before if part in formats and part not in attacks]:
        raise InputError(
            f"{early[0]} quantizes, and stands before the end of a chain: attacks are made on the model in full "
            "precision, which is quantized at last",
            given=name,
            allowed="prune30+nf4, relearn100+prune30+nf4, ...",
        )
    if unknown := [part for part in before if part not in attacks]:
        raise _unknown(unknown[0], name)
    if last not in formats and last not in attacks:
        close = get_close_matches(last, attacks, n=1, cutoff=0.75)
        if before or close:
            raise _unknown(last, name, f"Did you mean {close[0]}?" if close else None)
    config = sixteen_bits if last in attacks else last
    quantizer = load_quantizer(config)
    chain = tuple(load_attack(part) for part in ([*before, last] if last in attacks else before))
    return Precision(shown or name, config, quantizer, getattr(quantizer, "dtype", dtype), chain)


def _unknown(part: str, name: str, remedy: str | None = None) -> InputError:
    return InputError(
        f"no such attack or precision: {part!r}",
        given=name,
        allowed=f"attacks {', '.join(available_attacks())}; then one of {', '.join(available_precisions())}",
        remedy=remedy or "Name one of these, or write configs/attack/<name>.yaml",
    )


def widest(precisions: Sequence[Precision]) -> Precision:
    """What the others are made from and compared with: the widest that is not quantized; bf16 if there is none."""
    plain = [each for each in precisions if each.is_plain and each.config != AS_STORED]
    return max(plain, key=lambda each: each.dtype.itemsize, default=named_precision("bf16"))


def as_stored(name: str, dtype: torch.dtype = torch.bfloat16) -> Precision:
    """The format of a checkpoint that is quantized already: it is loaded as it is.

    Args:
        name: as rows show it.
        dtype: of what is not quantized, and of dequantized values.
    """
    return Precision(name, AS_STORED, load_quantizer("bf16"), dtype)


def attacked_names(precisions: Iterable[Precision]) -> set[str]:
    """Names of the precisions that come after an attack."""
    return {each.name for each in precisions if each.attacks}
