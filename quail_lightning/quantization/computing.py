"""Let a model that is stored in 16 or fewer bits compute in what the machine multiplies natively."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.models.sharded import is_sharded
from quail_lightning.quantization.protocol import PreTrainedModel


@contextmanager
def computing(model: PreTrainedModel) -> Iterator[None]:
    """Where the device emulates 16-bit products, hold the model's 16-bit weights in float32 inside.

    The values are those that are stored: what was rounded to 16 bits stays rounded, and packed 4-bit layers are
    unpacked once. Nothing happens where the device multiplies the stored dtype, nor to a sharded model, which is
    gathered in the right dtype anyway (``shard``). Afterwards the weights are again as they were, bit for bit.

    Args:
        model: in evaluation, at any precision; its weights must not be changed inside.
    """
    if is_sharded(model) or compute_dtype(model.dtype, model.device) == model.dtype:
        yield
        return
    unpack(model)
    with ExitStack() as restored:
        for module in model.modules():
            if hasattr(getattr(module, "weight", None), "quant_state"):
                restored.enter_context(_dequantized(module))
        for parameter in model.parameters():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                restored.callback(_cast, parameter, parameter.dtype)
                _cast(parameter, torch.float32)
        yield


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weights, norms and scales in ``dtype``, in place; packed integers and buffers stay as they are."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            _cast(parameter, dtype)


def unpack(quantized: PreTrainedModel) -> None:
    """Unpack compressed-tensors' layers in place, as their first forward pass does; others stay as they are."""
    packed: list[Any] = [
        part for part in quantized.modules() if getattr(part, "quantization_status", None) == "compressed"
    ]
    if packed:
        from compressed_tensors.compressors.base import decompress_module

        dtype = quantized.dtype
        for part in packed:
            decompress_module(part)
            _cast(part.weight, dtype)  # floating-point codes of 4 bits come in bfloat16 whatever the model's dtype
    hook: Any = getattr(quantized, "ct_decompress_hook", None)
    if hook is not None:  # of a loaded checkpoint: it would unpack once more
        hook.remove()
        del quantized.ct_decompress_hook


def _cast(parameter: nn.Parameter, dtype: torch.dtype) -> None:
    parameter.data = parameter.data.to(dtype)


@contextmanager
def _dequantized(layer: Any) -> Iterator[None]:
    """A 4-bit layer of bitsandbytes with its weight in float32; the library unpacks it again at every pass."""
    from bitsandbytes.functional import dequantize_4bit

    state = layer.weight.quant_state
    assert not getattr(state, "packing_format_for_cpu", False), "reordered by a pass in bfloat16, beyond recall"
    stored, state.dtype = state.dtype, torch.float32
    weight = dequantize_4bit(layer.weight.data, state)
    state.dtype = stored

    def forward(hidden: Tensor) -> Tensor:
        return linear(hidden, weight, layer.bias)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
