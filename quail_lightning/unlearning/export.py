"""What is evaluated and saved: a 16-bit copy of the trained model, and what made it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.empty import empty_model
from quail_lightning.models.sharded import is_sharded, whole
from quail_lightning.models.sharded_loading import cast_shards, restore_buffers
from quail_lightning.objectives import Term
from quail_lightning.run.processes import current_processes
from quail_lightning.unlearning.sharding import load_for
from quail_lightning.unlearning.task_vector import TaskVector

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quail_lightning.unlearning.module import UnlearningModule

RECORDED_PACKAGES = ("quail-lightning", "torch", "transformers", "lightning")


def exported_copy(
    model: PreTrainedModel,
    dtype: torch.dtype,
    target: Callable[[], PreTrainedModel],
    task_vector: TaskVector | None,
) -> PreTrainedModel:
    """A copy of a model as it is deployed: weights in ``dtype``, evaluation mode.

    Of a sharded model all processes must call: it is gathered weight by weight, and each is given the whole copy.
    Buffers (rotary frequencies) keep their dtype, as they do when the saved checkpoint is loaded.

    Args:
        model: unchanged.
        dtype: of the copy's weights.
        target: loads what a task vector starts from, as it was loaded to be trained.
        task_vector: negate what was trained; None takes the weights as they are.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if task_vector is not None:
        # in the dtype that was trained: what rounding took off a weight at the start is no training to be negated
        origin = dict(target().named_parameters())
        for name, value in values.items():
            values[name] = task_vector.negated(whole(value), whole(origin[name].detach()).to(value.device))
    if is_sharded(model):
        device = next(model.parameters()).device
        gathered = {name: whole(value).to(device, dtype, copy=True) for name, value in values.items()}
        return _assembled(model, gathered, dtype)
    # parameters enter the copy already cast: a copy in float32 first would cost twice the memory
    cast: dict[int, Any] = {
        id(parameter): nn.Parameter(values[name].to(dtype, copy=True), requires_grad=False)
        for name, parameter in model.named_parameters()
    }
    exported = copy.deepcopy(model, cast)
    exported.config.dtype = dtype
    if exported.is_gradient_checkpointing:
        exported.gradient_checkpointing_disable()
    return exported.eval()


def _assembled(model: PreTrainedModel, weights: Mapping[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a sharded model from whole weights, where those lie."""
    exported = empty_model(copy.deepcopy(model.config), dtype)
    exported.load_state_dict(weights, strict=False, assign=True)
    exported.tie_weights()
    restore_buffers(exported, next(iter(weights.values())).device)
    exported.generation_config = copy.deepcopy(model.generation_config)
    exported.config.dtype = dtype
    return exported.requires_grad_(False).eval()


def copy_to_evaluate(module: UnlearningModule) -> PreTrainedModel:
    """The copy that is evaluated: whole on the device, or sharded. All processes must call."""
    if not module.evaluation_memory.sharded:
        # at the end of a fit the model has left the device
        return _on_device(module.export_model(), module)
    assert module.model is not None
    return cast_shards(module.model, module.export_dtype, _movement(module))


def checkpoint_to_evaluate(module: UnlearningModule, checkpoint: str) -> PreTrainedModel:
    """A checkpoint that is evaluated beside the model, in the export dtype, lying on the devices as that does.

    Raises:
        InputError: see ``load_model`` and ``load_sharded``.
    """
    if module.evaluation_memory.sharded:
        return load_for(module.trainer, checkpoint, module.export_dtype)
    return _on_device(load_model(checkpoint, module.export_dtype), module)


def _on_device(model: PreTrainedModel, module: UnlearningModule) -> PreTrainedModel:
    nn.Module.to(model, module.trainer.strategy.root_device)
    return model


def saved_copy(module: UnlearningModule) -> PreTrainedModel | None:
    """The copy that is saved, for the first process; of a sharded model None on the others, and all must call.

    A sharded model is gathered weight by weight, in the export dtype, into the first process's main memory: no
    device holds it whole.
    """
    model, dtype = module.model, module.export_dtype
    assert model is not None
    if not is_sharded(model):
        return module.export_model()
    moved, first = _movement(module), current_processes().rank == 0
    gathered: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = whole(moved(name, parameter.detach()).to(dtype))
        if first:
            gathered[name] = value.to("cpu", copy=True)
    return _assembled(model, gathered, dtype) if first else None


def _movement(module: UnlearningModule) -> Callable[[str, Tensor], Tensor]:
    """A sharded weight's name and the weight → the weight as deployed: itself, or its task vector negated."""
    vector = module.task_vector
    if vector is None or not module.trained:
        return lambda _, value: value
    assert module.model is not None
    origin = dict(load_for(module.trainer, module.target, module.model.dtype).named_parameters())
    return lambda name, value: vector.negated(value, origin[name].detach())


def description(module: UnlearningModule) -> dict[str, Any]:
    """What made a module's model, for the provenance beside the saved weights."""
    terms = {"forget": module.forget, "retain": module.retain, "hinge": module.hinge}
    plain = (
        "target start schedule learning_rate weight_decay betas clip_norm weight_precision adam_states "
        "trainable saliency adversary generic_labels task_vector measured_steps"
    )
    return {
        "made_by": "quail fit",
        "terms": {name: described_term(term) for name, term in terms.items() if term is not None},
        "weights": module.weights._asdict(),
        "optimizer": "AdamW",
        **{name: getattr(module, name) for name in plain.split()},
        "salient_modules": None if module.saliency_map is None else module.saliency_map.salient,
        "export_dtype": str(module.export_dtype),
        "versions": package_versions(),
    }


def described_term(term: Term) -> dict[str, Any]:
    """A term's class and arguments, for the provenance."""
    return {"class": type(term).__qualname__} | vars(term)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the arithmetic."""
    return {name: version(name) for name in RECORDED_PACKAGES}
