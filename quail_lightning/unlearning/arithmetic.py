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
from quail_lightning.unlearning.adapter import Adapter
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
        adapter: trained in place of the weights; None trains these.
    """

    trainer: Trainer
    weight_precision: WeightPrecision
    adapter: Adapter | None = None

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

    def nlls(self, model: PreTrainedModel, windows: Tensor, batch_size: int | None = None) -> Tensor:
        """[n] mean NLL of each window, nats a token, float64; all processes must call."""
        with shared_among(current_processes(), model), self.trainer.precision_plugin.forward_context():
            return window_nlls(model, windows, batch_size)

    @property
    def head_dtype(self) -> torch.dtype:
        """Of the head's product."""
        if self.trainer.precision == "bf16-mixed":
            return torch.bfloat16
        return compute_dtype(self.held_dtype, self.device)

    @property
    def held_dtype(self) -> torch.dtype:
        """Of a loaded model's weights; of those that are not in 4 bits where the base is quantized."""
        return weight_dtype(self.weight_precision) if self.adapter is None else self.adapter.dtype

    @property
    def held_as(self) -> str:
        """What tells how models are held, for the reference's cache."""
        return str(self.held_dtype) if self.adapter is None else self.adapter.held_as

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.trainer.strategy.root_device

    def load(self, checkpoint: str) -> PreTrainedModel:
        """A checkpoint as it is trained: spread over the devices where the strategy does that, or in 4 bits."""
        if self.adapter is not None and self.adapter.base == "nf4" and self.trainer.state.fn == "fit":
            return self.adapter.quantized(checkpoint, self.device)
        return load_for(self.trainer, checkpoint, self.held_dtype)

    def on_device(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, moved in place; shards lie there already."""
        if not is_sharded(model):
            nn.Module.to(model, self.device)
        return model
