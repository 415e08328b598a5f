"""What the strategy decides: how the model lies on the devices, and how its gradients come together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from quail_lightning.functional.head import Head
from quail_lightning.models.activations import Activations
from quail_lightning.models.arithmetic import hold_for_computing
from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.lockstep import Lockstep
from quail_lightning.models.sharded import inside, is_sharded, whole, whole_head
from quail_lightning.models.sharded_loading import load_sharded
from quail_lightning.reference import Arithmetic, Reference, Request, Side
from quail_lightning.run.processes import current_processes, sum_over_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shards(trainer: Trainer) -> bool:
    """Whether the strategy wants the weights spread over the processes (FSDP2)."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def load_for(trainer: Trainer, checkpoint: str, dtype: torch.dtype) -> PreTrainedModel:
    """A checkpoint as the strategy wants it: whole in main memory, or this process's share on its device.

    What the device does not multiply in ``dtype`` is rounded to it and held in float32.

    Raises:
        InputError: see ``load_model`` and ``load_sharded``.
    """
    device = trainer.strategy.root_device
    if not shards(trainer):
        return hold_for_computing(load_model(checkpoint, dtype), device)
    # one mesh of all processes, whatever sizes the strategy was given: its own default is to split tensors
    mesh = torch.distributed.init_device_mesh(device.type, (trainer.world_size,))
    compute = torch.bfloat16 if trainer.precision == "bf16-mixed" and dtype == torch.float32 else None
    return load_sharded(checkpoint, dtype, mesh, compute)


def unsynchronized(trainer: Trainer) -> Any:
    """DDP leaves the gradients alone inside.

    Its own reduction wants one backward pass a step that reaches every weight. Here a step has several, of which
    some reach the lower layers alone, so the gradients are summed once, after the last: ``sum_gradients``.
    """
    strategy = trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def sum_gradients(parameters: Iterable[nn.Parameter], sharded: bool) -> None:
    """Sum every process's gradients, in place; FSDP2 has done so in the backward pass."""
    if not sharded:
        sum_over_processes([parameter.grad for parameter in parameters if parameter.grad is not None])


def multiply_gradients(factors: Mapping[Any, Tensor | float]) -> None:
    """Multiply each gradient by its own factor, in place."""
    for parameter, factor in factors.items():
        assert parameter.grad is not None
        parameter.grad.mul_(factor)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together, over all shards."""
    return whole(get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None]))


def prepare_reference(
    reference: Reference,
    requests: Mapping[Side, Request],
    model: PreTrainedModel,
    target: Callable[[], PreTrainedModel],
    again: Callable[[], PreTrainedModel],
    identity: Mapping[str, str],
    arithmetic: Arithmetic,
) -> None:
    """Let a reference take what it needs from the target, however that lies on the devices.

    Args:
        reference: to be prepared.
        requests: as in ``Reference``.
        model: the one that is trained.
        target: the target on its device; called at most once.
        again: another copy of a sharded target, since FSDP2 makes none.
        identity: as in ``Reference``.
        arithmetic: the training step's, for a model that lies whole on each process.
    """
    processes = current_processes()
    if not is_sharded(model):
        reference.prepare(requests, target, identity, arithmetic, processes)
        return

    def run(asked: PreTrainedModel, ids: Tensor, layers: tuple[int, ...] = ()) -> Activations:
        return inside(asked, lambda: arithmetic.forward(asked, ids, layers))

    def announced(*arguments: Any) -> Activations:
        lockstep.announce()
        return run(*arguments)

    def dummy() -> None:
        with torch.no_grad():
            run(frozen, torch.zeros(1, 2, dtype=torch.long, device=arithmetic.device))

    def head(asked: PreTrainedModel) -> Head:
        return frozen_head if asked is frozen else whole_head(asked)

    # by all processes, before they go each their own way: some may find all of their part at hand
    frozen = target()
    frozen_head = whole_head(frozen)
    lockstep = Lockstep(processes, dummy, arithmetic.device)
    sharded = replace(arithmetic, forward=announced, head=head, copy=lambda _: again())
    reference.prepare(requests, lambda: frozen, identity, sharded, lockstep.processes())
