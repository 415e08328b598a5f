"""What is taken over windows that no optimizer step follows: their likelihood, the gradient of a whole set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch, true_answers
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.token_likelihood import Unit, counted
from quail_lightning.models.sharded import is_sharded
from quail_lightning.objectives import GradientDescent
from quail_lightning.reference import FrozenOutputs
from quail_lightning.run.processes import current_processes, sum_over_processes
from quail_lightning.unlearning.division import passes
from quail_lightning.unlearning.losses import Forward, term_losses
from quail_lightning.unlearning.sharding import sum_gradients

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mean_nll(
    model: PreTrainedModel, batch: TokenBatch, forward: Forward, dtype: torch.dtype, chunk: int | None = None
) -> Tensor:
    """Mean negative log-likelihood of a batch's real tokens, nats a token; the processes share the windows."""
    nll = torch.zeros((), device=batch.input_ids.device)
    for part, share in passes(batch, None, current_processes()):
        losses = term_losses(model, {"nll": GradientDescent()}, part, FrozenOutputs(), forward, dtype, chunk=chunk)
        nll += share.tokens * losses["nll"]
    sum_over_processes([nll])
    return nll


def backward_over(
    model: PreTrainedModel,
    windows: Tensor,
    loss: Callable[[TokenBatch], Tensor],
    unit: Unit,
    device: torch.device,
    batch_size: int,
) -> None:
    """Accumulate the gradient of the mean loss over a whole set, the same on every process.

    Args:
        model: its gradients are added to.
        windows: [n, time] the set, masked as in ``functional.masking``; or [n, 2, time], true and alternate
            answers.
        loss: mean over a batch.
        unit: what it is a mean over, which is what a batch weighs in the set.
        device: where the batches are wanted.
        batch_size: windows a pass and process.
    """
    processes, sharded = current_processes(), is_sharded(model)
    scale = processes.world_size if sharded else 1  # FSDP2 takes the mean over the processes
    counts = counted(labels_of(true_answers(windows))[:, 1:], unit)
    for numbers in torch.arange(len(windows)).split(batch_size * processes.world_size):
        chosen = windows[numbers].to(device)
        batch = TokenBatch(token_numbers(chosen), labels_of(chosen), numbers)
        weight = float(counts[numbers].sum() / counts.sum())
        for part, share in passes(batch, None, processes):
            (scale * weight * getattr(share, unit) * loss(part)).backward()
    sum_gradients(model.parameters(), sharded)
