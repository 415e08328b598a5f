"""GPTQ (Frantar et al. 2023), through llm-compressor or GPTQModel."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.body_weights import linear_names
from quail_lightning.quantization.compressor import compress, demand_calibration, require_package
from quail_lightning.quantization.packed_format import PackedFormat
from quail_lightning.quantization.protocol import PreTrainedModel

# of GPTQModel's packed layers
GPTQMODEL_GROUPS = (16, 32, 64, 128, 256, 512, 1024)


class Gptq:
    """Rounds the columns of a weight one after another and lets the later ones make up for the error so far.

    The error is that of the layer's output on calibration tokens (Eq. 1 of the paper; columns in the order of
    their activations' size, their groups fixed beforehand).

    Args:
        bits: 4 or 8.
        group_size: inputs of a row that share a scale; must divide every layer's inputs; None: the whole row.
        symmetric: True, the usual GPTQ layout, has no zero point.
        layer_bits: mixed precision: shell-style pattern of layer names → bits (``*.down_proj: 8``).
        dampening: share of the Hessian's mean diagonal that is added to it; more is stabler and less exact.
        backend: ``gptqmodel`` succeeds the AutoGPTQ that the papers used: the same bits for every layer,
            columns ordered by their activations' size only within a group, the classic GPTQ checkpoint format.

    Raises:
        InputError: bits that cannot be packed, dampening outside (0, 1), an option that the backend lacks, or a
            package is missing.
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
        symmetric: bool = True,
        layer_bits: dict[str, int] | None = None,
        dampening: float = 0.01,
        backend: Literal["llmcompressor", "gptqmodel"] = "llmcompressor",
    ) -> None:
        if not 0 < dampening < 1:
            raise InputError("dampening must lie in (0, 1)", given=dampening)
        self.format = PackedFormat(bits, group_size, symmetric, layer_bits)
        self.dampening = dampening
        self.backend = backend
        if backend == "llmcompressor":
            require_package("llmcompressor", "GPTQ", "'llmcompressor>=0.14,<0.15'")
            return
        if layer_bits:
            raise InputError(
                "backend gptqmodel quantizes every layer to the same bits",
                given={"layer_bits": layer_bits},
                remedy="Use backend: llmcompressor",
            )
        if group_size is not None and group_size not in GPTQMODEL_GROUPS:
            raise InputError(
                "backend gptqmodel does not pack this group_size",
                given=group_size,
                allowed=f"{GPTQMODEL_GROUPS} or null",
            )
        require_package("gptqmodel", "backend gptqmodel", "'quail-lightning[gptqmodel]'")

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
        names = linear_names(model, "GPTQ")
        self.format.groups(quantized_linears(model))
        if self.backend == "gptqmodel":
            from quail_lightning.quantization.gptqmodel_backend import check_gptqmodel

            check_gptqmodel(model)
        return names

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        tokens = demand_calibration(calibration, "GPTQ")
        self.targets(model)
        if self.backend == "gptqmodel":
            from quail_lightning.quantization.gptqmodel_backend import quantize_with_gptqmodel

            packing = self.format
            return quantize_with_gptqmodel(
                model, tokens, packing.bits, packing.group_size, packing.symmetric, self.dampening
            )
        groups = self.format.groups(quantized_linears(model))

        def modifiers() -> list[Any]:
            from llmcompressor.modifiers.gptq import GPTQModifier

            return [GPTQModifier(config_groups=groups, dampening_frac=self.dampening)]

        return compress(model, modifiers, tokens)
