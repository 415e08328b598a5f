"""How the models of a run are held and computed: the target, the one that is trained, and any compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.shares import shared_among
from quail_lightning.models.activations import Activations, activations
from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.models.sharded import is_sharded
from quail_lightning.run.processes import current_processes
from quail_lightning.unlearning.optimizers import WeightPrecision, weight_dtype
from quail_lightning.unlearning.sharding import load_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepArithmetic:
    """That of the training step, which everything that is compared with its outputs must share.

    Attributes:
        trainer: knows devices and precision.
        weight_precision: of the module.
    """

    trainer: Trainer
    weight_precision: WeightPrecision

    def forward(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        layers: tuple[int, ...] = (),
        perturbations: Mapping[int, Tensor] | None = None,
    ) -> Activations:
        """The body's pass; windows have no padding."""
        with self.trainer.precision_plugin.forward_context():
            return activations(model, input_ids, layers, perturbations)

    def nlls(self, model: PreTrainedModel, windows: Tensor) -> Tensor:
        """[n] mean NLL of each window, nats a token, float64; all processes must call."""
        with shared_among(current_processes(), model), self.trainer.precision_plugin.forward_context():
            return window_nlls(model, windows)

    @property
    def head_dtype(self) -> torch.dtype:
        """Of the head's product."""
        if self.trainer.precision == "bf16-mixed":
            return torch.bfloat16
        return compute_dtype(weight_dtype(self.weight_precision), self.device)

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.trainer.strategy.root_device

    def load(self, checkpoint: str) -> PreTrainedModel:
        """A checkpoint in the dtype that is trained, spread over the devices where the strategy spreads models."""
        return load_for(self.trainer, checkpoint, weight_dtype(self.weight_precision))

    def on_device(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, moved in place; shards lie there already."""
        if not is_sharded(model):
            nn.Module.to(model, self.device)
        return model
