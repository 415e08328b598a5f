"""A copy with compressed-tensors' packed layers, built as transformers builds it from an exported checkpoint."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.quantization.body import copy_unconverted
from quail_lightning.quantization.computing import unpack
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.terminal import transient_bars


def packed_copy(
    model: PreTrainedModel,
    source: PreTrainedModel,
    weights: Mapping[str, Tensor],
    compressor: Any,
    names: Collection[str],
) -> PreTrainedModel:
    """The copy, on the model's device, in its dtype and mode.

    Args:
        model: unchanged.
        source: holds the copy's embeddings, norms, head and buffers, on the model's device: the model itself, or
            one whose norms took a factor.
        weights: the copy's state dict, its layers packed.
        compressor: compressed-tensors' ``ModelCompressor``, which knows how they are.
        names: of these layers.

    Raises:
        InputError: compressed-tensors has packed layers in other places.
    """
    from compressed_tensors.quantization.utils import is_module_quantized

    config = copy.deepcopy(model.config)
    config.quantization_config = _packing(compressor)
    quantized: PreTrainedModel = type(model).from_pretrained(
        None,
        config=config,
        state_dict=dict(weights),
        dtype=model.dtype,
        device_map={"": str(model.device)},
    )
    converted = {name for name, module in quantized.named_modules() if is_module_quantized(module)}
    if converted != set(names):
        raise InputError(
            f"llm-compressor quantized other layers of {type(model).__name__} than the linear ones of its body: "
            f"{', '.join(sorted(converted ^ set(names)))}",
            remedy="Use a uniform quantizer for this architecture",
        )
    copy_unconverted(source, quantized, names)
    quantized.generation_config = copy.deepcopy(model.generation_config)
    _unpack_quietly(quantized)
    return quantized.train(model.training)


def _packing(compressor: Any) -> dict[str, Any]:
    """What an exported config says of it."""
    with tempfile.TemporaryDirectory() as folder:
        compressor.update_config(folder)
        packing: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    written: dict[str, Any] = packing["quantization_config"]
    return written


def _unpack_quietly(quantized: Any) -> None:
    """Let the first forward pass only unpack; compressed-tensors' own hook prints bars and moves the model."""
    quantized.ct_decompress_hook.remove()
    del quantized.ct_decompress_hook

    def unpack_first(module: PreTrainedModel, _: Any) -> None:
        unpack(module)
        handle.remove()

    handle = quantized.register_forward_pre_hook(unpack_first)


@contextmanager
def quiet_packing() -> Iterator[None]:
    """compressed-tensors and transformers at work without bars and notes; restored afterwards."""
    from loguru import logger
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logger.disable("compressed_tensors")
    try:
        with transient_bars():
            yield
    finally:
        logger.enable("compressed_tensors")
        transformers_logging.set_verbosity(verbosity)
