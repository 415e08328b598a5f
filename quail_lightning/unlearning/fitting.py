"""The memory plan of the run at hand, refused where it does not fit the devices at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.empty import empty_model
from quail_lightning.reference import LiveReference
from quail_lightning.unlearning.memory_plan import (
    GIB,
    STATES,
    STATES_8BIT,
    EvaluationMemory,
    Run,
    Sizes,
    check_memory,
    whole_evaluation_fits,
)
from quail_lightning.unlearning.optimizers import weight_dtype
from quail_lightning.unlearning.sharding import shards
from quail_lightning.unlearning.trainable import train_only

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule


def check_device_memory(module: UnlearningModule, reads_logits: bool) -> None:
    """Count what the run will hold, without loading a weight.

    Nothing is checked on CPUs, where main memory is shared with everything else.

    Args:
        module: attached to its trainer, whose data module is set up.
        reads_logits: whether a term reads the target's logits, so that a frozen head or model is held.

    Raises:
        InputError: it does not fit a device; with the arithmetic.
    """
    capacity = device_capacity(module.trainer)
    if capacity is None:
        return
    check_memory(sizes_of(module), run_of(module, reads_logits), capacity)


def sizes_of(module: UnlearningModule) -> Sizes:
    """What of a module's model decides its memory, without loading a weight."""
    model = empty_model(load_config(module.target), weight_dtype(module.weight_precision))
    train_only(model, module.trainable)
    sizes = Sizes.of(model)
    if module.saliency is not None:
        sizes = replace(sizes, trained=round(sizes.trained * (1 - module.saliency.percentile / 100)))
    return sizes


def state_bytes(module: UnlearningModule) -> float:
    """What one checkpoint of the training takes on the disk: weights and optimizer states."""
    sizes, precision = sizes_of(module), module.weight_precision
    states = STATES_8BIT if module.adam_states == "8bit" else STATES[precision]
    return sizes.parameters * weight_dtype(precision).itemsize + sizes.trained * states


def evaluation_memory_of(module: UnlearningModule, sharded: bool | None, bits: int) -> EvaluationMemory:
    """How the model is to be evaluated: on shards where that is asked for, or where nothing else fits the devices.

    Args:
        module: attached to its trainer, whose data module is set up.
        sharded: as asked for; None: under FSDP2 on accelerators, where a whole 16-bit copy does not fit one.
        bits: of the widest quantized copy.
    """
    whole = EvaluationMemory(sharded=False, bits=bits)
    if not shards(module.trainer):
        return whole
    if sharded is not None:
        return replace(whole, sharded=sharded)
    capacity = device_capacity(module.trainer)
    run = replace(run_of(module, reads_logits=True), evaluation_memory=whole)
    if capacity is None or whole_evaluation_fits(sizes_of(module), run, capacity):
        return whole
    return replace(whole, sharded=True)


def run_of(module: UnlearningModule, reads_logits: bool) -> Run:
    """What of a module's options decides its memory."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    live = isinstance(module.reference, LiveReference)
    return Run(
        processes=module.trainer.world_size,
        sharded=shards(module.trainer),
        tokens=min(data.batch_size, module.micro_batch_size or data.batch_size) * data.max_len,
        weight_precision=module.weight_precision,
        adam_states=module.adam_states,
        mixed=module.trainer.precision == "bf16-mixed",
        emulated=compute_dtype(torch.bfloat16, module.trainer.strategy.root_device) != torch.bfloat16,
        gradient_checkpointing=module.gradient_checkpointing,
        reference_model=reads_logits and live,
        reference_head=reads_logits,
        whole_gradient=module.defer_gradient_sync,
        loss_chunk=module.loss_chunk,
        evaluation_memory=module.evaluation_memory,
    )


def device_capacity(trainer: Trainer) -> float | None:
    """Memory of this process's accelerator, GiB; None on a CPU."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None
