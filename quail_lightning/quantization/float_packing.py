"""One weight at a time to compressed-tensors' floating-point formats and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quail_lightning.functional.float_codes import FloatFormat
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization.protocol import PreTrainedModel

PRESETS: dict[FloatFormat, str] = {"nvfp4": "NVFP4A16", "mxfp4": "MXFP4A16", "fp8": "FP8_DYNAMIC"}


class FloatPacking:
    """compressed-tensors' scheme and compressor of a format.

    Args:
        format: which.
        names: of the layers that have it.
    """

    def __init__(self, format: FloatFormat, names: Sequence[str]) -> None:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.compressors.format import infer_module_format
        from compressed_tensors.quantization import preset_name_to_scheme

        self._scheme: Any = preset_name_to_scheme(PRESETS[format], list(names))
        self._scheme.format = infer_module_format(nn.Linear, self._scheme)
        self._packer: Any = BaseCompressor.get_value_from_registry(self._scheme.format.value)

    @property
    def described(self) -> dict[str, Any]:
        """The scheme as a checkpoint's config has it for a group of layers."""
        found: dict[str, Any] = self._scheme.model_dump(mode="json")
        return found

    def pack(self, weight: Tensor, largest: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """A layer's tensors in place of its weight.

        Args:
            weight: [outputs, inputs], finite.
            largest: largest magnitude of the weights that share a global scale, [].
            dtype: of the model, in which it keeps scales that the format itself leaves wide.
        """
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

        args, working = self._scheme.weights, weight.float()
        blocks = working.unflatten(1, (-1, args.group_size or working.shape[1]))
        low, high = torch.aminmax(blocks, dim=-1)
        tensors = {"weight": working}
        if args.strategy == "tensor_group":
            tensors["weight_global_scale"] = generate_gparam(-largest, largest)
        scale, _ = calculate_qparams(low, high, args, global_scale=tensors.get("weight_global_scale"))
        is_wide = args.scale_dtype is None
        # the codes are to fit the scale that is kept
        tensors["weight_scale"] = scale.bfloat16().float() if is_wide else scale
        packed: dict[str, Tensor] = self._packer.compress(tensors, self._scheme)
        if is_wide:
            packed["weight_scale"] = packed["weight_scale"].to(dtype)
        return packed

    def unpack(self, packed: Mapping[str, Tensor]) -> Tensor:
        """The weight [outputs, inputs] that a packed layer multiplies with."""
        weight: Tensor = self._packer.decompress(dict(packed), self._scheme)["weight"]
        return weight

    def compressor(self, model: PreTrainedModel) -> Any:
        """compressed-tensors' ``ModelCompressor`` of a model whose layers have this format."""
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            QuantizationStatus,
            apply_quantization_config,
        )

        shell = empty_model(copy.deepcopy(model.config), model.dtype)
        apply_quantization_config(shell, QuantizationConfig(config_groups={"group_0": self._scheme}))
        compressor = ModelCompressor.from_pretrained_model(shell)
        assert compressor.quantization_config is not None
        compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
        return compressor

    def round_inputs(self, layer: nn.Module) -> None:
        """Let a layer that is not packed round its inputs as a packed one does, where the format does that."""
        args = self._scheme.input_activations
        if args is None:
            return
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize
        from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

        def rounded(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            scale, zero = compute_dynamic_scales_and_zp(given[0], args, module)
            return (fake_quantize(given[0], scale, zero, args),)

        layer.register_forward_pre_hook(rounded)
