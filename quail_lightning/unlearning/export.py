"""What is evaluated and saved: a copy of the trained model in the export dtype, and what made it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from quail_lightning.models.casting import Cast, Rounding, as_deployed, copy_with, default_rounding
from quail_lightning.models.checkpoint import load_config, load_model, stored_dtype
from quail_lightning.models.empty import empty_model
from quail_lightning.models.sharded import is_sharded, whole
from quail_lightning.models.sharded_loading import cast_shards, restore_buffers
from quail_lightning.run.processes import current_processes
from quail_lightning.run.seeds import global_seed
from quail_lightning.unlearning.adapter import Adapter, is_adapted
from quail_lightning.unlearning.merging import merged_copy
from quail_lightning.unlearning.ridge_edit import LayerEdits
from quail_lightning.unlearning.sharding import load_for
from quail_lightning.unlearning.task_vector import TaskVector

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def exported_copy(
    model: PreTrainedModel,
    cast: Cast,
    moved: Callable[[str, Tensor], Tensor] | None,
) -> PreTrainedModel:
    """A copy of a model as it is deployed: weights cast, evaluation mode.

    Of a sharded model all processes must call: it is gathered weight by weight, and each is given the whole copy.
    Buffers (rotary frequencies) keep their dtype, as they do when the saved checkpoint is loaded.

    Args:
        model: unchanged.
        cast: of the copy's weights.
        moved: a weight's name and the weight, or a rank's part of it → what is exported in its place; None takes
            the weights as they are.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if moved is not None:
        values = {name: moved(name, value) for name, value in values.items()}
    if is_sharded(model):
        device = next(model.parameters()).device
        gathered = {name: cast(name, whole(value)).to(device) for name, value in values.items()}
        return _assembled(model, gathered, cast.dtype)
    return as_deployed(copy_with(model, lambda name, _: cast(name, values[name])), cast.dtype)


def _assembled(model: PreTrainedModel, weights: Mapping[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a sharded model from whole weights, where those lie."""
    exported = empty_model(copy.deepcopy(model.config), dtype)
    exported.load_state_dict(weights, strict=False, assign=True)
    exported.tie_weights()
    restore_buffers(exported, next(iter(weights.values())).device)
    exported.generation_config = copy.deepcopy(model.generation_config)
    return as_deployed(exported, dtype)


def chosen_cast(dtype: torch.dtype, rounding: Rounding | None, start: str) -> Cast:
    """The cast to the export dtype; its draws follow from ``seed_everything``.

    Args:
        dtype: to be cast to.
        rounding: None for what loses nothing: ``stochastic`` where all weights started as values of 16 bits.
        start: checkpoint that the training starts from.
    """
    if rounding is None:
        rounding = default_rounding(load_config(start).dtype)
    return Cast(dtype, rounding, global_seed())


@dataclass(frozen=True)
class Export:
    """How the model of a run is evaluated and saved.

    Attributes:
        target: checkpoint that a task vector starts from.
        trained_dtype: in which the weights are trained.
        cast: to what is evaluated and saved.
        task_vector: to be negated; None takes the weights as they are.
        trainer: knows the devices.
        sharded: the copies that are evaluated before they are quantized stay spread over them.
        adapter: that is trained, and merged here; None where the weights themselves are.
        start: checkpoint that an adapter is trained on.
        edits: of the layers that were trained; None takes the weights as they are.
    """

    target: str
    trained_dtype: torch.dtype
    cast: Cast
    task_vector: TaskVector | None
    trainer: Trainer
    sharded: bool
    adapter: Adapter | None = None
    start: str = ""
    edits: LayerEdits | None = None

    def whole_copy(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``exported_copy`` and, where an adapter is trained, ``merged_copy``. All processes must call."""
        if is_adapted(model):
            assert self.adapter is not None
            # once quantized or rounded, the base that was trained on is not what the adapter is merged with
            own = None if self.adapter.holds(self.start) else load_model(self.start, stored_dtype(self.start))
            return merged_copy(model, self.cast, own, self._moved())
        return exported_copy(model, self.cast, self._moved())

    def copy_to_evaluate(self, model: PreTrainedModel) -> PreTrainedModel:
        """The copy that is evaluated: whole on the device, or sharded. All processes must call."""
        if self.sharded:
            return cast_shards(model, self.cast.dtype, self._moved_and_cast())
        return self._on_device(self.whole_copy(model))  # at the end of a fit the model has left the device

    def checkpoint_to_evaluate(self, checkpoint: str) -> PreTrainedModel:
        """A checkpoint that is evaluated beside the model, lying on the devices as that does.

        Raises:
            InputError: see ``load_model`` and ``load_sharded``.
        """
        if self.sharded:
            return load_for(self.trainer, checkpoint, self.cast.dtype)
        return self._on_device(load_model(checkpoint, self.cast.dtype))

    def saved_copy(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """The copy that is saved, for the first process; of a sharded model None on the others, and all must call.

        A sharded model is gathered weight by weight, in the export dtype, into the first process's main memory: no
        device holds it whole.
        """
        if not is_sharded(model):
            return self.whole_copy(model)
        moved, first = self._moved_and_cast(), current_processes().rank == 0
        gathered: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            value = whole(moved(name, parameter.detach()))
            if first:
                gathered[name] = value.to("cpu", copy=True)
        return _assembled(model, gathered, self.cast.dtype) if first else None

    def _on_device(self, model: PreTrainedModel) -> PreTrainedModel:
        nn.Module.to(model, self.trainer.strategy.root_device)
        return model

    def _moved(self) -> Callable[[str, Tensor], Tensor] | None:
        """A weight's name and the weight → what is exported in its place; None where that is the weight."""
        if self.edits is not None:
            return self.edits.edited
        if self.task_vector is None:
            return None
        # in the dtype that was trained: what rounding took off a weight at the start is no training to be negated
        origin = dict(load_for(self.trainer, self.target, self.trained_dtype).named_parameters())
        vector = self.task_vector
        return lambda name, value: vector.negated(value, origin[name].detach().to(value.device))

    def _moved_and_cast(self) -> Callable[[str, Tensor], Tensor]:
        """A sharded weight's name and the weight → the weight as deployed."""
        moved = self._moved()
        return self.cast if moved is None else lambda name, value: self.cast(name, moved(name, value))
