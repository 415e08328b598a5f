"""A training run over windows, from the loader to the last step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from quail_lightning.finetuning.module import FinetuningModule, Optimization
from quail_lightning.models.arithmetic import Precision
from quail_lightning.run.trainer_options import explained_refusals

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Hardware:
    """What a model is trained on, in Lightning's names; noted beside the result, no part of its fingerprint."""

    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    strategy: str = "auto"


def train(
    model: PreTrainedModel,
    windows: Tensor,
    optimization: Optimization,
    precision: Precision,
    seed: int,
    hardware: Hardware,
    callbacks: Sequence[Callback] = (),
    alone: bool = False,
    steps: int | None = None,
) -> Trainer:
    """Train a model in place.

    Args:
        model: with float32 weights.
        windows: [n, time] token numbers, masked as in ``functional.masking``.
        optimization: how.
        precision: Lightning's name of the arithmetic.
        seed: of the windows' order.
        hardware: devices and strategy.
        callbacks: of the Trainer; without a progress bar among them it has none.
        alone: this process does it by itself, whoever started it together with which others.
        steps: ends it after so many, however many epochs that takes; None: ``optimization.epochs``.

    Returns:
        The Trainer, which knows the steps that were made.

    Raises:
        InputError: Lightning refuses the hardware.
        KeyboardInterrupt: it was interrupted.
    """
    loader = DataLoader(
        TensorDataset(windows),
        batch_size=optimization.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    with explained_refusals(asdict(hardware), "--"):
        trainer = Trainer(
            max_epochs=optimization.epochs if steps is None else -1,
            max_steps=-1 if steps is None else steps,
            precision=precision,
            gradient_clip_val=optimization.clip_norm,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bool(callbacks),
            # of its own, it does not hear of torchrun's or SLURM's other processes
            plugins=[LightningEnvironment()] if alone else None,
            **asdict(hardware),
        )
    trainer.fit(FinetuningModule(model, optimization), loader)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return trainer
