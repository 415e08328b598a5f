"""How long a window takes to train on, by the clock: the real model, arithmetic, length and device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.objectives import GradientDescent
from quail_lightning.reference import FrozenOutputs
from quail_lightning.terminal import step
from quail_lightning.unlearning.losses import term_losses
from quail_lightning.unlearning.trainable import train_only

if TYPE_CHECKING:
    from quail_lightning.unlearning import UnlearningModule

PASSES = 3  # the first warms up and does not count


class Measured(NamedTuple):
    """What was timed.

    Attributes:
        seconds: of a forward and a backward pass.
        windows: that went through together.
    """

    seconds: float
    windows: int


def measured_step(module: UnlearningModule, windows: Tensor, batch_size: int) -> Measured:
    """Time the passes of a cross-entropy on the first windows, as many as the module takes in one pass.

    Terms of other methods read the same pass; what they read of the target is not timed.

    Args:
        module: attached to its trainer, on one process; its own weights stay as they are.
        windows: [n, time], or [n, 2, time] with alternates, that the steps train on.
        batch_size: windows of a step.

    Raises:
        InputError: the model cannot be loaded.
    """
    arithmetic = module.arithmetic
    model = arithmetic.on_device(arithmetic.load(module.start or module.target))
    model.train()
    if module.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if module.adapter is None:
        train_only(model, module.trainable)
    else:
        module.adapter.inject(model, module.target)
    chosen = windows[: module.windows_a_pass(min(batch_size, len(windows)))]
    count = len(chosen)
    batch = TokenBatch(token_numbers(chosen), labels_of(chosen), torch.arange(count))
    batch = TokenBatch(*(part.to(arithmetic.device) for part in batch))
    computed = (arithmetic.forward, arithmetic.head_dtype)
    taken = []
    with step("timing a forward and a backward pass"):
        for _ in range(PASSES):
            begun = time.perf_counter()
            terms = {"retain": GradientDescent()}
            losses = term_losses(model, terms, batch, FrozenOutputs(), *computed, None, module.loss_chunk)
            losses["retain"].backward()
            float(losses["retain"].detach())  # waits for the device
            if arithmetic.device.type == "cuda":
                torch.cuda.synchronize(arithmetic.device)
            taken.append(time.perf_counter() - begun)
            model.zero_grad()
    return Measured(min(taken[1:]), count)
