"""What a run takes from the target and from θ_o before its first step, kept for the run that goes on with it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from quail_lightning.data.batch import TokenBatch, true_answers
from quail_lightning.data.protocol import data_of
from quail_lightning.data.text_digests import TEXTS
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import weights_digest
from quail_lightning.objectives import MeasuredStep
from quail_lightning.reference import Arithmetic, Request, Side
from quail_lightning.run.processes import world_size
from quail_lightning.unlearning.dual import Multiplier
from quail_lightning.unlearning.losses import request
from quail_lightning.unlearning.measured_margin import measure_steps
from quail_lightning.unlearning.provenance import description
from quail_lightning.unlearning.ridge_edit import LayerEdits, layer_edits
from quail_lightning.unlearning.saliency import SaliencyMap, saliency_table
from quail_lightning.unlearning.sharding import prepare_reference
from quail_lightning.unlearning.stopping import ENOUGH, Goals, goals_between, yardstick
from quail_lightning.unlearning.whole_sets import backward_over

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quail_lightning.unlearning.module import UnlearningModule

# windows are compared in place of texts; a run that goes on starts from its checkpoint
NOT_COMPARED = ("made_by", "versions", "measured_steps", "dual_value", "salient_modules", TEXTS, "start_sha256")


def requests(module: UnlearningModule, layers: int) -> dict[Side, Request]:
    """What a module's terms read of the target, by set.

    Args:
        module: attached to a trainer whose data module is set up.
        layers: of the target.
    """
    windows = data_of(module.trainer).served.trained
    sides: tuple[Side, ...] = ("forget", "retain")
    found = {side: request(module.terms(side).values(), getattr(windows, side), layers) for side in sides}
    return {side: asked for side, asked in found.items() if asked is not None}


def prepare(module: UnlearningModule, model: PreTrainedModel) -> None:
    """Take what is needed of the target and of θ_o while they are still what they are.

    Args:
        module: attached to a trainer whose data module is set up; gets what was taken.
        model: that will be trained.
    """
    arithmetic, data = module.arithmetic, data_of(module.trainer)
    forward, dtype, device = arithmetic.forward, arithmetic.head_dtype, arithmetic.device
    arithmetic.on_device(model)
    forget, micro = data.served.trained.forget, module.windows_a_pass(data.batch_size)

    def target() -> PreTrainedModel:
        """The model itself, which has not moved yet, where it starts there."""
        starts_there = module.start in (None, module.target)
        return model if starts_there else arithmetic.on_device(arithmetic.load(module.target))

    if asked := requests(module, model.config.get_text_config().num_hidden_layers):
        identity = weights_digest(module.target) | {
            "weights": arithmetic.held_as,
            "precision": str(module.trainer.precision),
            "device": device.type,
            "products": str(dtype),
        }
        again, computed = partial(arithmetic.load, module.target), Arithmetic(forward, dtype, micro, device)
        formats = () if module.perturbation is None else module.perturbation.formats
        module.rounded_references = {name: copy.deepcopy(module.reference) for name in formats}
        prepare_reference(module.reference, asked, model, target, again, identity, computed)
        frozen = target() if formats else model
        for name, reference in module.rounded_references.items():
            assert module.perturbation is not None
            whose = identity | {"rounded to": name}
            with module.perturbation.rounded(frozen, name):
                prepare_reference(reference, asked, model, lambda: frozen, again, whose, computed)
    if module.generic_labels is not None:
        together = module.windows_a_pass(data.batch_size * world_size())  # every process trains the same copy
        module.generic_targets = module.generic_labels.labels(target(), forget, forward, dtype, together)
    if module.hinge is not None and isinstance(getattr(module.hinge, "step", None), MeasuredStep):
        given = (target(), true_answers(forget), forward, dtype, micro, data.served.tokenizer)
        module.measured_steps = measure_steps(module.hinge, *given)
    if module.stop is not None:
        module.goals = _goals(module, target())
    if module.ridge_edit is not None:
        module.layer_edits = layer_edits(module, model, forget, data.served.trained.retain, micro)
    if module.saliency is not None:

        def loss(batch: TokenBatch) -> Tensor:
            return module.losses("forget", {"forget": module.forget}, module.relabelled(batch))["forget"]

        # the gradient of the forget loss over the whole forget set (SURE, Eq. 4)
        backward = partial(backward_over, model, forget, loss, module.forget.needs.mean_over, device, micro)
        module.saliency_map = module.saliency.map(model, backward)
        module.gradient_masks = module.saliency.masks(model, module.saliency_map)
        rank_zero_info(saliency_table(module.saliency_map))


def _goals(module: UnlearningModule, target: PreTrainedModel) -> Goals:
    """Of the forget windows; a model that they are measured on beside the target is let go again."""
    data, arithmetic = data_of(module.trainer), module.arithmetic
    windows = true_answers(data.served.trained.forget)
    if module.stop != "retrained":
        assert module.stop is not None
        return Goals.of(torch.full((len(windows),), float(module.stop), dtype=torch.float64))
    by = yardstick(module.target, module.retrained, data)
    is_target = by.checkpoint == module.target
    other = target if is_target else arithmetic.on_device(arithmetic.load(by.checkpoint))
    unknown = arithmetic.nlls(other, true_answers(by.windows))
    goals = goals_between(
        arithmetic.nlls(target, windows), unknown if by.is_own else unknown.mean(dim=0, keepdim=True)
    )
    rank_zero_info(
        f"forgetting ends, window by window, at {float(goals.nll.mean()):.3g} nats a token on average: "
        f"{ENOUGH:.0%} of the way to {by.said}"
    )
    return goals


def preparation(module: UnlearningModule) -> dict[str, Any]:
    """Saliency map, generic labels, goals, dual variable, edits and measured steps, by name."""
    found, goals = module.saliency_map, module.goals
    return {
        "saliency": None if found is None else {"scores": found.scores, "threshold": found.threshold},
        "labels": module.generic_targets,
        "goals": None if goals is None else vars(goals),
        "dual": None if module.multiplier is None else asdict(module.multiplier),
        "layer_edits": None if module.layer_edits is None else vars(module.layer_edits),
        "measured_steps": module.measured_steps,
        "hinge": _measured(module),
    }


def restore_preparation(module: UnlearningModule, kept: Mapping[str, Any]) -> None:
    """Put what was kept in the place of what was prepared anew, which other hardware may have rounded differently.

    Raises:
        InputError: other modules are salient than those that were trained; their optimizer states fit no others.
    """
    if kept["saliency"] is not None:
        old = SaliencyMap(kept["saliency"]["scores"], kept["saliency"]["threshold"])
        if module.saliency_map is None or set(old.salient) != set(module.saliency_map.salient):
            raise InputError(
                "the saliency map of the checkpoint names other modules than the one made now",
                remedy="Resume with the same target and data, on the same kind of hardware",
            )
        module.saliency_map = old
    module.generic_targets = kept["labels"]
    if kept["goals"] is not None:
        module.goals = Goals(**kept["goals"])
    if kept["dual"] is not None:
        module.multiplier = Multiplier(**kept["dual"])
    if kept["layer_edits"] is not None:
        module.layer_edits = LayerEdits(**kept["layer_edits"])
    module.measured_steps = dict(kept["measured_steps"])
    for name, value in kept["hinge"].items():
        setattr(module.hinge, name, value)


def origin(module: UnlearningModule, processes: int) -> dict[str, Any]:
    """What decides a run beyond the number of its epochs; a run goes on only with the same."""
    data = data_of(module.trainer)
    described = {name: value for name, value in description(module).items() if name not in NOT_COMPARED}
    return described | {
        "target_sha256": weights_digest(module.target),
        # a checkpoint of the adapter alone goes on from the start's weights, too
        "base_sha256": None if module.adapter is None else weights_digest(module.start or module.target),
        "reference": type(module.reference).__qualname__,
        "micro_batch_size": module.micro_batch_size,
        "loss_chunk": module.loss_chunk,
        "gradient_checkpointing": module.gradient_checkpointing,
        "windows_sha256": {name: _digest(windows) for name, windows in data.served.trained._asdict().items()},
        "batch_size": data.batch_size,
        "seed": data.seed,
        "precision": str(module.trainer.precision),
        "processes": processes,
    }


def _measured(module: UnlearningModule) -> dict[str, Any]:
    """The hinge's attributes that a measurement has set."""
    if not module.measured_steps:
        return {}
    if measured := getattr(module.hinge, "measured", None):
        return {"measured": dict(measured)}
    return {"step": getattr(module.hinge, "step")}  # noqa: B009


def _digest(windows: Tensor) -> str:
    return hashlib.sha256(windows.contiguous().numpy().tobytes()).hexdigest()
