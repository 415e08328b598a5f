"""llm-compressor on a model in memory: calibrate a copy, pack it, and leave no trace.

What is handed back is the model that loading the exported checkpoint gives: packed weights in compressed-tensors'
format, which vLLM loads too, unpacked to the model's dtype at the first forward pass.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from quail_lightning.errors import InputError
from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.quantization.body import quantized_linears, refuse_non_finite
from quail_lightning.quantization.computing import cast_weights, computing
from quail_lightning.quantization.packed_copy import packed_copy, quiet_packing
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.quantization.smoothing import Method, refuse_changed_layers
from quail_lightning.terminal import step


def require_package(package: str, purpose: str, install: str) -> None:
    """Refuse what needs a package that is not there.

    Raises:
        InputError: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{purpose} needs {package}, not installed here", remedy=f"Run: pip install {install}")


def demand_calibration(calibration: Tensor | None, method: str) -> Tensor:
    """The calibration tokens.

    Raises:
        InputError: there are none.
    """
    if calibration is None:
        raise InputError(
            f"{method} needs calibration tokens",
            remedy="quail_lightning.data.calibration.calibration_tokens makes them",
        )
    return calibration


def compress(
    model: PreTrainedModel,
    modifiers: Callable[[], list[Any]],
    tokens: Tensor,
    smoothing: Method | None = None,
) -> PreTrainedModel:
    """A packed copy of a model.

    Args:
        model: unchanged.
        modifiers: makes llm-compressor's recipe; called after its import.
        tokens: [windows, time] token ids of the calibration; the windows are shown one at a time.
        smoothing: what moves factors between layers before they are quantized, which is checked.

    Returns:
        the copy, on the model's device, in its dtype and mode.

    Raises:
        InputError: weights that are not finite, smoothing that changes the model, or
            other layers than the linear ones of the body were quantized.
    """
    linears = quantized_linears(model)
    refuse_non_finite(linears)
    with undisturbed(), tempfile.TemporaryDirectory() as folder:
        with step("loading llm-compressor"):
            from compressed_tensors.compressors import ModelCompressor
            from compressed_tensors.offload import remove_dispatch
            from llmcompressor import oneshot

        working = copy.deepcopy(model).eval().requires_grad_(False)
        cast_weights(working, compute_dtype(model.dtype, model.device))
        # oneshot reads the config of the folder that the model names; what it names now may be gone, or the hub
        model.config.save_pretrained(folder)
        working.config._name_or_path = folder  # private: the library's own way to name it
        rows: Any = DataLoader([{"input_ids": row} for row in tokens.cpu()], batch_size=1)  # type: ignore[arg-type]
        settings: dict[str, Any] = {"dataset": rows, "processor": object()}  # None: it looks for a tokenizer
        try:
            with step(f"calibrating on {len(tokens)} windows and quantizing (llm-compressor)"):
                oneshot(model=working, recipe=modifiers(), **settings)
        finally:
            _forget_session()
        _restore_norms(model, working)
        if smoothing is not None:
            with computing(model):
                refuse_changed_layers(model, working, tokens[0], smoothing)
        compressor = ModelCompressor.from_pretrained_model(working)
        compressor.compress_model(working)
        cast_weights(working, model.dtype)
        remove_dispatch(working)  # calibration leaves one behind; parameters are plain tensors after it
        nn.Module.to(working, model.device)
        return packed_copy(model, working, working.state_dict(), compressor, {name for name, _ in linears})


def _restore_norms(model: PreTrainedModel, working: PreTrainedModel) -> None:
    """Undo what llm-compressor does to norms that scale by 1 + weight (Gemma) in passing.

    It adds 1 and takes it off again, which rounds every weight to a multiple of the dtype's step at 1.
    """
    held = dict(working.named_parameters())
    with torch.no_grad():
        for name, original in model.named_parameters():
            if original.ndim == 1:
                worked_in = held[name].dtype
                passed = ((1 + original.float()).to(worked_in).float() - 1).to(worked_in)
                if torch.equal(held[name].to(passed.device), passed):  # no factor was moved into it
                    held[name].copy_(original)


def _forget_session() -> None:
    """llm-compressor keeps the model of the last call in a global session."""
    from llmcompressor.core import active_session, reset_session

    active_session().reset()
    reset_session()


@contextmanager
def undisturbed() -> Iterator[None]:
    """llm-compressor imported and at work, without lasting changes to random states or environment."""
    from lightning.pytorch.utilities.seed import isolate_rng  # here: it imports transformers

    with isolate_rng(), _quiet():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its notes, with the environment restored, and with the CPU fault of AWQ worked around."""
    from loguru import logger

    parallelism = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = parallelism or "false"
    with quiet_packing():
        # it sets its loggers up when it is imported, and warns of a missing accelerator, on stdout, while it is
        with patch.object(type(logger), "warning", lambda *_, **__: None):
            import llmcompressor  # noqa: F401

        logger.disable("llmcompressor")
        try:
            with _no_pinning_without_accelerator():
                yield
        finally:
            logger.enable("llmcompressor")
            if parallelism is None:
                del os.environ["TOKENIZERS_PARALLELISM"]


@contextmanager
def _no_pinning_without_accelerator() -> Iterator[None]:
    """WORKAROUND: llm-compressor (0.13 to 0.14.0.1) pins memory for AWQ where no accelerator is; torch refuses.

    It may go when ``test_the_pin_memory_workaround_is_still_needed`` fails.
    """
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    with patch.object(IntermediatesCache, "pin_memory", lambda self, batch_index, input_names=None: None):
        yield
