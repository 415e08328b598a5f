"""GPTQ by GPTQModel, the successor of the AutoGPTQ that the papers used: the classic GPTQ checkpoint format."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.quantization.body import (
    copy_unconverted,
    quantized_linears,
    refuse_indivisible,
    refuse_non_finite,
)
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.terminal import Bar, transient_bars

# what GPTQModel replaces in torch for good, by functions that do nothing, when it loads a model
_INITIALIZERS = ("kaiming_uniform_", "uniform_", "normal_")


def quantize_with_gptqmodel(
    model: PreTrainedModel,
    calibration: Tensor,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    dampening: float,
) -> PreTrainedModel:
    """A copy with GPTQModel's packed layers, made through folders, as the package works on checkpoints.

    Args:
        model: unchanged; bfloat16 or float16, which is what the packed layers compute in.
        calibration: [windows, time] token ids, shown one window at a time.
        bits: 4 or 8.
        group_size: inputs of a row that share a scale; None: the whole row.
        symmetric: False: each group has a zero point.
        dampening: share of the Hessian's mean diagonal that is added to it; GPTQModel raises it by steps where
            the Hessian cannot be factored.

    Returns:
        the copy, whose ``save_pretrained`` writes the classic GPTQ format (``quant_method: gptq``).

    Raises:
        InputError: an architecture that GPTQModel quantizes other layers of, or weights or a group size that do
            not fit.
    """
    linears = quantized_linears(model)
    refuse_indivisible(
        {name: linear.in_features for name, linear in linears},
        group_size,
        "Set group_size in a copy of the quantizer's file to a divisor (64, 32), or null",
    )
    refuse_non_finite(linears)
    packed = tempfile.TemporaryDirectory()  # lives as long as the copy, whose export it is
    with isolate_rng(), _undisturbed(), tempfile.TemporaryDirectory() as folder:
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

        model.save_pretrained(folder)
        # GPTQModel insists on a tokenizer and does not use it: the calibration is token ids
        train_tokenizer(["none"], 259).save_pretrained(folder)
        settings = QuantizeConfig(
            bits=bits,
            group_size=-1 if group_size is None else group_size,
            sym=symmetric,
            desc_act=False,
            act_group_aware=group_size is not None,
            damp_percent=dampening,
            offload_to_disk=False,
            device=str(model.device),
        )
        working = GPTQModel.load(folder, settings, dtype=model.dtype)
        rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in calibration.tolist()]
        with _Progress(int(model.config.get_text_config().num_hidden_layers)) as progress:
            working.layer_callback = progress
            working.quantize(rows, batch_size=1, calibration_sort=None, calibration_data_min_length=1)
        working.save(packed.name)
        # on CPUs it would take a fused kernel that leaves zero points out, or fetch one from the hub
        plain = model.device.type == "cpu" or not symmetric
        loaded = GPTQModel.load(
            packed.name,
            backend=BACKEND.TORCH if plain else BACKEND.AUTO,
            device=str(model.device),
            # the scales of the file are float16; loading in bfloat16 would round them, which transformers does not
            dtype=torch.float16 if plain else model.dtype,
        )
    return _handed_over(model, loaded.model, packed, {name for name, _ in linears}, symmetric)


def check_gptqmodel(model: PreTrainedModel) -> None:
    """Refuse what GPTQModel does not take, before it is asked; the model may be on the meta device.

    Raises:
        InputError: a float32 model, or an architecture that it does not know.
    """
    if model.dtype not in (torch.bfloat16, torch.float16):
        raise InputError(
            "backend gptqmodel quantizes models of 16 bits", given=model.dtype, allowed="bfloat16 or float16"
        )
    with isolate_rng(), _undisturbed():  # its import draws numbers
        from gptqmodel.models.auto import MODEL_MAP
    kind = model.config.model_type
    if kind not in MODEL_MAP:
        raise InputError(
            "GPTQModel does not know this architecture", given=kind, remedy="Use backend: llmcompressor"
        )


def _handed_over(
    model: PreTrainedModel,
    quantized: Any,
    packed: tempfile.TemporaryDirectory[str],
    names: set[str],
    symmetric: bool,
) -> PreTrainedModel:
    """The copy with the configuration of the input, which GPTQModel fits to its tokenizer, and its own export."""
    converted = {name for name, module in quantized.named_modules() if hasattr(module, "qweight")}
    if converted != names:
        raise InputError(
            f"GPTQModel quantized other layers of {type(model).__name__} than the linear ones of its body: "
            f"{', '.join(sorted(converted ^ names))}",
            remedy="Use backend: llmcompressor",
        )
    copy_unconverted(model, quantized, names)
    config = copy.deepcopy(model.config)
    # the kernel is transformers' choice where every kernel reads the format right
    config.quantization_config = dict(quantized.config.quantization_config) | (
        {} if symmetric else {"backend": "torch"}
    )
    quantized.config = config
    quantized.generation_config = copy.deepcopy(model.generation_config)

    def save_pretrained(folder: str | Path, **_: Any) -> None:
        """Loading prepares the layers for its kernels, so the weights are handed on as GPTQModel packed them."""
        kept = shutil.ignore_patterns("tokenizer*", "special_tokens*", "quant_log*", "generation_config*")
        shutil.copytree(packed.name, folder, dirs_exist_ok=True, ignore=kept)
        config.save_pretrained(folder)
        if quantized.generation_config is not None:
            quantized.generation_config.save_pretrained(folder)

    quantized.save_pretrained = save_pretrained
    torch.nn.Module.to(quantized, model.device)
    result: PreTrainedModel = quantized.train(model.training)
    return result


class _Progress:
    """A bar of the layers whose weights are found."""

    def __init__(self, layers: int) -> None:
        self.bar = Bar(total=layers, desc="GPTQModel", unit="layer")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def layer_complete(self, layer_idx: int, submodule_finalized: bool) -> None:
        """Called by GPTQModel twice a layer: when its weights are found, and when they are packed."""
        if not submodule_finalized:
            self.bar.update()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Quiet, without compiling anything, and with nothing left behind in process or folder.

    GPTQModel's import sets variables of the environment; packing compiles an extension, in silence and in every
    process, unless told not to; a layer that is loaded hands its unpacking to ``torch.compile``, which needs a C++
    compiler on a CPU and minutes at the first call; loading a model turns torch's initializers off; a log is
    written where the user stands; keys pressed are taken from the terminal, to pause; an error in a worker ends
    the whole process before it can be raised, as it is here.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    originals = {name: getattr(torch.nn.init, name) for name in _INITIALIZERS}
    with (
        patch.dict(os.environ, GPTQMODEL_DISABLE_PACK_EXT="1"),
        contextlib.redirect_stdout(io.StringIO()),
        transient_bars(),
    ):
        from gptqmodel import DEVICE_THREAD_POOL
        from gptqmodel.looper.loop_processor import LoopProcessor
        from gptqmodel.utils.pause_resume import PauseResumeController
        from gptqmodel.utils.threadx import _DeviceWorker  # private: threads that outlive the work

        try:
            with (
                patch("gptqmodel.utils.torch.TORCH_HAS_COMPILE", False),
                patch.object(LoopProcessor, "log_save_async", lambda self, stat: None),
                patch.object(PauseResumeController, "_setup_keyboard_handler", lambda self: None),
                patch.object(_DeviceWorker, "_abort_process", lambda self, exc: None),
            ):
                try:
                    yield
                finally:
                    DEVICE_THREAD_POOL.wait()  # after an error the other workers go on
        finally:
            for name, function in originals.items():
                setattr(torch.nn.init, name, function)
            logging.disable(level)
