"""Few directions, high signal: of what was trained, only what the forget set sees is exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quail_lightning.data.batch import true_answers
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.ridge import ridge_projection
from quail_lightning.functional.token_likelihood import counted
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization.body_weights import body_weights
from quail_lightning.terminal import step
from quail_lightning.unlearning.losses import Forward
from quail_lightning.unlearning.trainable import matching_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quail_lightning.unlearning.module import UnlearningModule


@dataclass(frozen=True)
class RidgeEdit:
    """Exports W + (W′ − W) P in place of each trained W′, W the weight before training (``ridge_projection``).

    It goes with any terms. ``model.trainable`` names the layers, which must be linear; one to four are usual. The
    inputs of all of them are those of the model before training. ``train/`` and ``val/`` figures, and where
    ``model.stop`` ends, are those of the trained weights.

    Attributes:
        retain_weight: μ; larger leaves the layers' outputs on the retain set more as they are.
        ridge: λ, a share of the mean eigenvalue of the forget inputs' second moments; larger edits less.

    Raises:
        InputError: a number outside its range.
    """

    retain_weight: float = 0.1
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.retain_weight < math.inf:
            raise InputError(
                "model.ridge_edit.retain_weight must be 0 or a positive number", given=self.retain_weight
            )
        if not 0 < self.ridge < math.inf:
            raise InputError("model.ridge_edit.ridge must be a positive number", given=self.ridge)


@dataclass
class LayerEdits:
    """What turns trained weights into edits.

    Attributes:
        before: weight's name → [outputs, inputs] what it was.
        projections: weight's name → P [inputs, inputs], float32.
    """

    before: Mapping[str, Tensor]
    projections: Mapping[str, Tensor]

    def edited(self, name: str, trained: Tensor) -> Tensor:
        """A weight as it is exported, in float32; one that is not edited as it is."""
        if name not in self.projections:
            return trained
        before, projection = (of[name].to(trained.device) for of in (self.before, self.projections))
        return before.float() + (trained.float() - before.float()) @ projection


def check_ridge_edit(edit: RidgeEdit | None, trainable: Any, others: Mapping[str, object]) -> None:
    """Refuse what leaves nothing to edit, or would export something else.

    Args:
        edit: the option.
        trainable: ``model.trainable``.
        others: options that it does not go with, by name; those that are absent are None.

    Raises:
        InputError: naming the option.
    """
    if edit is None:
        return
    if isinstance(trainable, str):
        raise InputError(
            "model.ridge_edit edits the layers that are trained, and they must be named",
            given=f"model.trainable: {trainable}",
            remedy="Name linear layers, such as model.trainable: ['*.layers.5.mlp.down_proj.weight']",
        )
    for name, value in others.items():
        if value is not None:
            raise InputError(
                f"model.ridge_edit and model.{name} each decide what is exported or trained",
                remedy="Leave one out",
            )


def check_edited_layers(edit: RidgeEdit | None, trainable: Any, checkpoint: str, retain: Tensor) -> None:
    """See that every layer to be edited is a linear one, and that there is a retain set where it is to be spared.

    Args:
        edit: the option.
        trainable: patterns of names.
        checkpoint: whose architecture is looked at.
        retain: [n, time] windows.

    Raises:
        InputError: naming the weights; or there is no retain set.
    """
    if edit is None:
        return
    model = empty_model(load_config(checkpoint), torch.float32)
    linear = {each.name for each in body_weights(model) if each.layout == "linear"}
    chosen = matching_names([name for name, _ in model.named_parameters()], trainable)
    if others := [name for name in chosen if name not in linear]:
        raise InputError(
            "model.ridge_edit edits weights of linear layers alone",
            given=f"model.trainable: {', '.join(others[:3])}",
            remedy="Name others, such as *.mlp.down_proj.weight",
        )
    if edit.retain_weight and not len(retain):
        raise InputError(
            "model.ridge_edit is to spare the retain set, and the data has none",
            given=f"model.ridge_edit.retain_weight: {edit.retain_weight}",
            remedy="Name retain text, or set it to 0",
        )


def layer_edits(
    module: UnlearningModule, model: PreTrainedModel, forget: Tensor, retain: Tensor, batch_size: int
) -> LayerEdits:
    """Measure the layers' inputs before the first step; every rank measures the same.

    Args:
        module: that will train the model, with a ``ridge_edit``.
        model: on its device.
        forget: [n, time] windows, or [n, 2, time] with alternate answers, which are left out.
        retain: [n, time] windows.
        batch_size: windows a pass.
    """
    edit = module.ridge_edit
    assert edit is not None
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    how = (module.arithmetic.forward, module.arithmetic.device, batch_size)
    with step("measuring the inputs of the layers to be edited"):
        of_forget = second_moments(model, list(weights), forget, *how)
        of_retain = second_moments(model, list(weights), retain, *how) if edit.retain_weight else {}
        projections = {
            name: ridge_projection(moment, of_retain.get(name), edit.retain_weight, edit.ridge).float()
            for name, moment in of_forget.items()
        }
    return LayerEdits({name: value.detach().to("cpu", copy=True) for name, value in weights.items()}, projections)


@torch.no_grad()
def second_moments(
    model: PreTrainedModel,
    names: Sequence[str],
    windows: Tensor,
    forward: Forward,
    device: torch.device,
    batch_size: int,
) -> dict[str, Tensor]:
    """The mean of k kᵀ over the inputs k of linear layers, at the positions whose next token is learned.

    Args:
        model: unchanged.
        names: of the layers' weights.
        windows: [n, time] masked as in ``functional.masking``.
        forward: the body's pass.
        device: where the model lies.
        batch_size: windows a pass.

    Returns:
        weight's name → [inputs, inputs] float64, in main memory: the device holds one of them at a time.
    """
    caught: dict[str, Tensor] = {}
    summed: dict[str, Tensor] = {}
    windows = true_answers(windows)
    total = 0
    with ExitStack() as hooks:
        for name in names:
            layer = model.get_submodule(name.removesuffix(".weight"))
            hooks.enter_context(layer.register_forward_pre_hook(partial(_keep_input, caught, name)))
        for part in windows.split(batch_size):
            learned = counted(labels_of(part)[:, 1:]).to(device)
            forward(model, token_numbers(part).to(device))
            for name, inputs in caught.items():
                seen = inputs[:, :-1][learned].float()
                summed[name] = (seen.T @ seen).cpu().double() + summed.get(name, 0.0)
            total += int(learned.sum())
    return {name: moment / max(1, total) for name, moment in summed.items()}


def _keep_input(caught: dict[str, Tensor], name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
    caught[name] = given[0]
