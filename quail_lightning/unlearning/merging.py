"""A trained adapter taken out: merged with its base for evaluation and export, or alone for its own folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from quail_lightning.models.adapters import PREFIX, WEIGHTS, lora_change
from quail_lightning.models.casting import Cast, as_deployed
from quail_lightning.unlearning.adapter import ADAPTED, FROZEN, adapted_layers, matrices, peft_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Moved = Callable[[str, Tensor], Tensor]
"""A weight's name and the trained weight → the weight as deployed, before it is cast."""


def merged_copy(
    model: PreTrainedModel, cast: Cast, own: PreTrainedModel | None = None, moved: Moved | None = None
) -> PreTrainedModel:
    """A model without adapter whose weights are W + s · B A, summed in float32 and then cast; evaluation mode.

    Args:
        model: adapted; unchanged.
        cast: of the copy's weights.
        own: the start with its own weights, which becomes the copy; None takes the base that was trained on.
        moved: see ``Moved``; None leaves the weights as they are.
    """
    layers = adapted_layers(model)

    def value(name: str, weight: Tensor) -> nn.Parameter:
        if (layer := layers.get(name.removesuffix(".weight"))) is not None:
            a, b = (matrix.detach() for matrix in matrices(layer))
            change = lora_change(a, b, layer.scaling[ADAPTED], bool(getattr(layer, "fan_in_fan_out", False)))
            weight = weight.float() + change.to(weight.device)
        if moved is not None:
            weight = moved(name, weight)
        return nn.Parameter(cast(name, weight), requires_grad=False)

    if own is not None:
        for name, parameter in own.named_parameters():
            parameter.data = value(name, parameter.detach()).data
    return as_deployed(_copy(model, value) if own is None else own, cast.dtype)


def _copy(model: PreTrainedModel, value: Callable[[str, Tensor], nn.Parameter]) -> PreTrainedModel:
    """Parameters enter the copy merged and cast: no whole float32 model is ever held."""
    layers = adapted_layers(model)
    changes = {id(matrix) for layer in layers.values() for matrix in matrices(layer)}
    weights: dict[int, Any] = {
        id(parameter): parameter
        if id(parameter) in changes  # left out below
        else value(name.replace(FROZEN, ""), parameter.detach())
        for name, parameter in model.named_parameters()
    }
    exported = copy.deepcopy(model, weights)
    for name in layers:
        layer: Any = exported.get_submodule(name)
        exported.set_submodule(name, layer.get_base_layer())
    del exported.peft_config
    return exported


class AdapterAlone:
    """An adapter as ``save_model`` takes it: peft's own layout, beside the tokenizer.

    Args:
        model: that has the adapter.
        base: checkpoint that it was trained on; a folder is named by its absolute path.
    """

    def __init__(self, model: PreTrainedModel, base: str) -> None:
        self.config = copy.deepcopy(peft_config(model))
        self.config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
        self.config.task_type = "CAUSAL_LM"
        self.config.inference_mode = True
        self.weights = {
            f"{PREFIX}{name}.lora_{side}.weight": matrix.detach().cpu().contiguous()
            for name, layer in adapted_layers(model).items()
            for side, matrix in zip("AB", matrices(layer), strict=True)
        }

    def save_pretrained(self, folder: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        from safetensors.torch import save_file

        self.config.save_pretrained(str(folder))
        save_file(self.weights, folder / WEIGHTS, metadata={"format": "pt"})
