"""AWQ: activation-aware weight quantization (Lin et al. 2024), through llm-compressor or AutoAWQ."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.body_weights import linear_names
from quail_lightning.quantization.compressor import compress, demand_calibration, require_package, undisturbed
from quail_lightning.quantization.packed_format import PackedFormat
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.quantization.smoothing import smoothing_pairs


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
        backend: ``autoawq`` is the archived package that the papers used: 4 bits with a group size and zero
            points, its own 20 search steps, weights clipped as well, and the classic AWQ checkpoint format.

    Raises:
        InputError: bits that cannot be packed, an option that the backend lacks, or a package is missing.
    """

    needs_calibration = True
    simulated = False

    @property
    def stored_bits(self) -> int:
        """Of the widest layers."""
        return self.format.widest

    def __init__(
        self,
        bits: int = 4,
        group_size: int | None = 128,
        symmetric: bool = False,
        layer_bits: dict[str, int] | None = None,
        search_steps: int = 20,
        backend: Literal["llmcompressor", "autoawq"] = "llmcompressor",
    ) -> None:
        if search_steps < 1:
            raise InputError("search_steps must be at least 1", given=search_steps)
        self.format = PackedFormat(bits, group_size, symmetric, layer_bits)
        self.search_steps = search_steps
        self.backend = backend
        if backend == "llmcompressor":
            require_package("llmcompressor", "AWQ", "'llmcompressor>=0.14,<0.15'")
            return
        if bits != 4 or layer_bits or group_size is None or symmetric:
            raise InputError(
                "backend autoawq quantizes every layer to 4 bits, in groups with zero points",
                given={"bits": bits, "group_size": group_size, "symmetric": symmetric, "layer_bits": layer_bits},
                remedy="Use backend: llmcompressor",
            )
        if search_steps != 20:
            raise InputError("backend autoawq has 20 search_steps", given=search_steps)
        require_package("awq", "backend autoawq", "'quail-lightning[autoawq]'")

    @property
    def bits(self) -> int:
        """Of the layers that no pattern names."""
        return self.format.bits

    @property
    def granularity(self) -> str:
        """``group128``, or ``channel``."""
        return self.format.granularity

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``."""
        names = linear_names(model, "AWQ")
        if self.backend == "autoawq":
            from quail_lightning.quantization.autoawq import check_autoawq

            assert self.format.group_size is not None
            check_autoawq(model, self.format.group_size)
            return names
        self.format.groups(quantized_linears(model))
        with undisturbed():
            smoothing_pairs(model, "AWQ")
        return names

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        tokens = demand_calibration(calibration, "AWQ")
        self.targets(model)
        if self.backend == "autoawq":
            from quail_lightning.quantization.autoawq import quantize_with_autoawq

            assert self.format.group_size is not None
            return quantize_with_autoawq(model, tokens, self.format.group_size)
        groups = self.format.groups(quantized_linears(model))

        def modifiers() -> list[Any]:
            from llmcompressor.modifiers.quantization import QuantizationModifier
            from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

            pairs = smoothing_pairs(model, "AWQ")
            mappings = None if pairs is None else [AWQMapping(source, balanced) for source, balanced in pairs]
            return [
                AWQModifier(n_grid=self.search_steps, mappings=mappings),
                QuantizationModifier(config_groups=groups),
            ]

        return compress(model, modifiers, tokens, smoothing="AWQ")
