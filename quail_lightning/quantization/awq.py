"""AWQ: activation-aware weight quantization (Lin et al. 2024), through llm-compressor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.compressor import compress, require_package
from quail_lightning.quantization.packed_format import PackedFormat
from quail_lightning.quantization.protocol import PreTrainedModel


class Awq:
    """Scales the channels that carry large activations before weights are rounded to a grid for each group.

    The scales are searched on calibration tokens, layer by layer, and folded into the norm or layer before
    (section 3.2 of the paper), so norms change although they are not quantized.

    Args:
        bits: 4 or 8.
        group_size: inputs of a row that share a scale; must divide every layer's inputs; None: the whole row.
        symmetric: False, the usual AWQ layout, gives each group a zero point.
        layer_bits: mixed precision: shell-style pattern of layer names → bits (``*.down_proj: 8``).
        search_steps: candidates between no scaling and full scaling; more is slower and slightly better.

    Raises:
        InputError: bits that cannot be packed, or llm-compressor is not installed.
    """

    needs_calibration = True

    def __init__(
        self,
        bits: int = 4,
        group_size: int | None = 128,
        symmetric: bool = False,
        layer_bits: dict[str, int] | None = None,
        search_steps: int = 20,
    ) -> None:
        require_package("llmcompressor", "AWQ", "'llmcompressor>=0.14,<0.15'")
        self.format = PackedFormat(bits, group_size, symmetric, layer_bits)
        self.search_steps = search_steps

    @property
    def bits(self) -> int:
        """Of the layers that no pattern names."""
        return self.format.bits

    @property
    def granularity(self) -> str:
        """``group128``, or ``channel``."""
        return self.format.granularity

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        groups = self.format.groups(quantized_linears(model))

        def modifiers() -> list[Any]:
            from llmcompressor.modifiers.quantization import QuantizationModifier
            from llmcompressor.modifiers.transform.awq import AWQModifier

            return [AWQModifier(n_grid=self.search_steps), QuantizationModifier(config_groups=groups)]

        return compress(model, modifiers, calibration, "AWQ")
