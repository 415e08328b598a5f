"""The memory plan of the run at hand, refused where it does not fit the devices at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Trainer

from quail_lightning.data.protocol import data_of
from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization import Quantizer, widest_copy
from quail_lightning.reference import LiveReference, Reference
from quail_lightning.unlearning.adapter import Adapter
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
from quail_lightning.unlearning.optimizers import AdamStates, WeightPrecision, weight_dtype
from quail_lightning.unlearning.perturbation import Perturbation
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sharding import shards
from quail_lightning.unlearning.sharpness import Sam
from quail_lightning.unlearning.sophia import Sophia
from quail_lightning.unlearning.trainable import Trainable, train_only


@dataclass(frozen=True)
class MemoryOptions:
    """Those of ``UnlearningModule``'s options, by their names there, that decide the memory of its training."""

    target: str
    trainable: Trainable
    adapter: Adapter | None
    saliency: Saliency | None
    sam: Sam | None
    perturbation: Perturbation | None
    sophia: Sophia | None
    weight_precision: WeightPrecision
    adam_states: AdamStates
    micro_batch_size: int | None
    loss_chunk: int | None
    gradient_checkpointing: bool
    defer_gradient_sync: bool
    reference: Reference
    export_dtype: torch.dtype

    @property
    def takes_16_bits(self) -> bool:
        """Whether 16-bit weights and 8-bit states are allowed beside the other options."""
        return self.adapter is None and self.sam is None and self.sophia is None


@runtime_checkable
class MakesCopies(Protocol):
    """A callback that evaluates quantized copies of the model: precision → what makes it."""

    quantizers: Mapping[str, Quantizer]


@runtime_checkable
class AttacksCopies(MakesCopies, Protocol):
    """One that also attacks the model: bits a weight that this takes beside it."""

    attack_bits: int


@runtime_checkable
class ChoosesShards(MakesCopies, Protocol):
    """One that also says whether the evaluations are sharded; None where that is to follow from the memory."""

    sharded: bool | None


def check_device_memory(options: MemoryOptions, trainer: Trainer, reads_logits: bool) -> None:
    """Count what the run will hold, without loading a weight.

    Nothing is checked on CPUs, where main memory is shared with everything else.

    Args:
        options: of the module.
        trainer: whose data module is set up.
        reads_logits: whether a term reads the target's logits, so that a frozen head or model is held.

    Raises:
        InputError: it does not fit a device; with the arithmetic.
    """
    capacity = device_capacity(trainer)
    if capacity is not None:
        run = run_of(options, trainer, reads_logits, evaluation_memory(options, trainer))
        check_memory(sizes_of(options), run, capacity)


def sizes_of(options: MemoryOptions) -> Sizes:
    """What of the model decides its memory, without loading a weight."""
    model = empty_model(load_config(options.target), weight_dtype(options.weight_precision))
    if options.adapter is not None:
        weights = [model.get_parameter(f"{name}.weight") for name in options.adapter.layers(model)]
        return replace(Sizes.of(model), trained=options.adapter.rank * sum(sum(each.shape) for each in weights))
    train_only(model, options.trainable)
    sizes = Sizes.of(model)
    left_out = 0.0 if options.saliency is None else options.saliency.percentile / 100
    return replace(sizes, trained=round(sizes.trained * (1 - left_out)))


def state_bytes(options: MemoryOptions) -> float:
    """What one checkpoint of the training takes on the disk: weights and optimizer states, or the adapter's."""
    sizes, precision = sizes_of(options), options.weight_precision
    states = STATES_8BIT if options.adam_states == "8bit" else STATES[precision]
    kept = sizes.parameters if options.adapter is None else sizes.trained
    return kept * weight_dtype(precision).itemsize + sizes.trained * states


def evaluation_memory(options: MemoryOptions, trainer: Trainer) -> EvaluationMemory:
    """How the model lies on the devices in the evaluations of all callbacks, in whatever order they stand.

    Args:
        options: of the module.
        trainer: whose data module is set up.
    """
    return replace(_whole_evaluation(options, trainer), sharded=evaluates_shards(options, trainer))


def evaluates_shards(options: MemoryOptions, trainer: Trainer) -> bool:
    """Whether the evaluations of all callbacks are sharded.

    They are where one asks for that or, under FSDP2 on accelerators, where nothing is asked and a whole 16-bit
    copy does not fit one.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    asked = [callback.sharded for callback in callbacks if isinstance(callback, ChoosesShards)]
    if not shards(trainer) or not asked:
        return False
    if asked != [None]:
        return any(asked)
    capacity = device_capacity(trainer)
    if capacity is None:
        return False
    run = run_of(options, trainer, True, _whole_evaluation(options, trainer))
    return not whole_evaluation_fits(sizes_of(options), run, capacity)


def _whole_evaluation(options: MemoryOptions, trainer: Trainer) -> EvaluationMemory:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    makers = [callback for callback in callbacks if isinstance(callback, MakesCopies)]
    made = [quantizer for maker in makers for quantizer in maker.quantizers.values()]
    model = empty_model(load_config(options.target), options.export_dtype)
    attacks = [maker.attack_bits for maker in makers if isinstance(maker, AttacksCopies)]
    bits = max([widest_copy(made, model), *attacks])
    return EvaluationMemory(bits=bits, itemsize=options.export_dtype.itemsize)


def run_of(options: MemoryOptions, trainer: Trainer, reads_logits: bool, evaluation: EvaluationMemory) -> Run:
    """What of a run decides its memory."""
    data = data_of(trainer)
    answers = data.served.trained.forget.ndim - 1  # 2 where an alternate goes through beside the true one
    return Run(
        processes=trainer.world_size,
        sharded=shards(trainer),
        tokens=min(data.batch_size, options.micro_batch_size or data.batch_size) * data.max_len * answers,
        weight_precision=options.weight_precision,
        adam_states=options.adam_states,
        mixed=trainer.precision == "bf16-mixed",
        emulated=compute_dtype(torch.bfloat16, trainer.strategy.root_device) != torch.bfloat16,
        gradient_checkpointing=options.gradient_checkpointing,
        reference_model=reads_logits and isinstance(options.reference, LiveReference),
        reference_head=reads_logits,
        whole_gradient=options.defer_gradient_sync,
        loss_chunk=options.loss_chunk,
        kept_weights=options.sam is not None or options.perturbation is not None,
        takes_16_bits=options.takes_16_bits,
        takes_offloading=options.sophia is None,
        evaluation_memory=evaluation,
        base=None if options.adapter is None else options.adapter.base,
    )


def device_capacity(trainer: Trainer) -> float | None:
    """Memory of this process's accelerator, GiB; None on a CPU."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None
