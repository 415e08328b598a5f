"""SmoothQuant W8A8 (Xiao et al. 2023), through llm-compressor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.body_weights import linear_names
from quail_lightning.quantization.compressor import compress, demand_calibration, require_package, undisturbed
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.quantization.smoothing import smoothing_pairs


class SmoothQuant:
    """8-bit weights and 8-bit activations, after part of the activations' outliers was moved into the weights.

    Weights: symmetric, one scale an output row. Activations: symmetric, one scale a token, taken as it comes.
    The factor of each channel is folded into the norm before, so norms change although they are not quantized.

    Args:
        smoothing_strength: α of Eq. 4: 0 moves nothing into the weights, 1 all; 0.5 is the paper's.

    Raises:
        InputError: a strength outside [0, 1], or llm-compressor is not installed.
    """

    bits = 8
    granularity = "channel"
    needs_calibration = True
    simulated = False
    stored_bits = 8
    backend = "llmcompressor"

    def __init__(self, smoothing_strength: float = 0.5) -> None:
        if not 0 <= smoothing_strength <= 1:
            raise InputError("smoothing_strength must lie in [0, 1]", given=smoothing_strength)
        require_package("llmcompressor", "SmoothQuant", "'llmcompressor>=0.14,<0.15'")
        self.smoothing_strength = smoothing_strength

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``."""
        names = linear_names(model, "SmoothQuant")
        with undisturbed():
            smoothing_pairs(model, "SmoothQuant")
        return names

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        tokens = demand_calibration(calibration, "SmoothQuant")
        self.targets(model)
        names = [name for name, _ in quantized_linears(model)]
        integer = {"num_bits": 8, "type": "int", "symmetric": True}
        group = {
            "targets": names,
            "weights": integer | {"strategy": "channel"},
            "input_activations": integer | {"strategy": "token", "dynamic": True},
        }

        def modifiers() -> list[Any]:
            from llmcompressor.modifiers.quantization import QuantizationModifier
            from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

            pairs = smoothing_pairs(model, "SmoothQuant")
            mappings: Any = None if pairs is None else [(balanced, source) for source, balanced in pairs]
            return [
                SmoothQuantModifier(smoothing_strength=self.smoothing_strength, mappings=mappings),
                QuantizationModifier(config_groups={"w8a8": group}),
            ]

        return compress(model, modifiers, tokens, smoothing="SmoothQuant")
