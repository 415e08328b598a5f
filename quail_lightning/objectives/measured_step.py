"""A hinge's step that is measured, not assumed."""

from __future__ import annotations

from dataclasses import dataclass

from quail_lightning.errors import InputError


@dataclass(frozen=True)
class MeasuredStep:
    """Δ_q such that the margin Δ_q/2 is a quantile of the error that quantization makes on the forget set.

    The papers' Δ_q of 1.0 is a logit; the quantizer's step is a weight. This is what the quantizer does to the
    logits (or to a layer's output): |z_quantized − z| of the target, over all entries.

    Attributes:
        precision: the quantizer, a name of ``configs/quantizer/*.yaml``.
        quantile: of the errors, in (0, 1); larger asks for a larger distance.
        max_windows: forget windows that are looked at, evenly spread.
    """

    precision: str = "nf4"
    quantile: float = 0.9
    max_windows: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise InputError("the quantile of a measured step must lie in (0, 1)", given=self.quantile)
        if self.max_windows < 1:
            raise InputError("a measured step needs at least 1 window", given=self.max_windows)
