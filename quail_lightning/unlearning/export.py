"""What is judged and saved: a 16-bit copy of the trained model, and what made it."""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import Term
from quail_lightning.unlearning.task_vector import TaskVector

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORDED_PACKAGES = ("quail-lightning", "torch", "transformers", "lightning")


def exported_copy(
    model: PreTrainedModel, dtype: torch.dtype, target: str, task_vector: TaskVector | None
) -> PreTrainedModel:
    """A copy of a model as it is deployed: weights in ``dtype``, evaluation mode.

    Buffers (rotary frequencies) keep their dtype, as they do when the saved checkpoint is loaded.

    Args:
        model: unchanged.
        dtype: of the copy's weights.
        target: checkpoint that a task vector starts from.
        task_vector: negate what was trained; None takes the weights as they are.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if task_vector is not None:
        # in the dtype that was trained: what rounding took off a weight at the start is no training to be negated
        origin = dict(load_model(target, model.dtype).named_parameters())
        for name, value in values.items():
            values[name] = task_vector.negated(value, origin[name].to(value.device))
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


def described_term(term: Term) -> dict[str, Any]:
    """A term's class and arguments, for the provenance."""
    return {"class": type(term).__qualname__} | vars(term)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the arithmetic."""
    return {name: version(name) for name in RECORDED_PACKAGES}
