"""What each tensor of a checkpoint is: a quantized weight or not, and of which decoder layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from quail_lightning.errors import InputError
from quail_lightning.models.activations import decoder_layers
from quail_lightning.models.empty import empty_model
from quail_lightning.quantization import quantized_linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Role(NamedTuple):
    """A parameter's place in its model.

    Attributes:
        quantized: a weight of a linear layer of the body; everything else stays in full precision.
        layer: number of its decoder layer, from 0; None outside of them.
        first_name: of a parameter that has several, because it is tied; else its name.
    """

    quantized: bool
    layer: int | None
    first_name: str


def parameter_roles(model: PreTrainedModel) -> dict[str, Role]:
    """The role of every parameter, by all of its names, in the model's order.

    Raises:
        InputError: the model has no linear layer to be quantized.
    """
    linears = {id(linear.weight) for _, linear in quantized_linears(model)}
    layers = {
        id(parameter): number
        for number, layer in enumerate(decoder_layers(model))
        for parameter in layer.parameters()
    }
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: Role(id(parameter) in linears, layers.get(id(parameter)), first[id(parameter)])
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def roles_from_config(config: Any) -> dict[str, Role]:
    """``parameter_roles`` of the model that a config describes, without its weights.

    Raises:
        InputError: no causal language model, or one without linear layers.
    """
    return parameter_roles(empty_model(config, torch.float32))


def compared_parameters(
    roles: Mapping[str, Role],
    reference: Mapping[str, tuple[int, ...]],
    model: Mapping[str, tuple[int, ...]],
) -> dict[str, Role]:
    """The parameters that two sets of weights have in common, in the model's order.

    Vectors that are no parameters (rotary frequencies in old checkpoints) are left out, and so is what both have
    and the architecture does not know; a tied parameter counts once, under a name that both have.

    Args:
        roles: of the architecture.
        reference: name → sizes of w.
        model: name → sizes of w′.

    Raises:
        InputError: naming tensors that only one of the two has, whose sizes differ, or that neither has.
    """
    chosen: dict[str, str] = {}
    for name, role in roles.items():
        if name in reference or name in model:
            held = chosen.setdefault(role.first_name, name)
            if reference.get(held) != model.get(held):
                chosen[role.first_name] = name
    if not any(roles[name].quantized for name in chosen.values()):
        raise InputError(
            "none of the weights to be quantized is in the checkpoint under its name",
            given=sorted(reference)[:2],
            allowed=next(name for name, role in roles.items() if role.quantized),
        )
    if unread := [role.first_name for role in roles.values() if role.first_name not in chosen]:
        raise InputError(
            f"{len(set(unread))} weights are not in the checkpoint under their names, such as {unread[0]}: "
            "transformers joins a layer's experts when it loads them",
            remedy="The weights of this architecture cannot be compared file by file: leave the analysis out",
        )
    # what the architecture does not know, but only one of the two has: more layers, say
    strange = {name for name, sizes in (*reference.items(), *model.items()) if len(sizes) > 1} - roles.keys()
    differences = [
        f"{name} ({_sizes(reference, name)} and {_sizes(model, name)})"
        for name in (*chosen.values(), *sorted(strange))
        if reference.get(name) != model.get(name)
    ]
    if differences:
        raise InputError(
            f"reference and model are of different architectures: {len(differences)} tensors differ, "
            f"such as {', '.join(differences[:3])}",
            remedy="Compare a model with the target that it was unlearned from",
        )
    return {name: roles[name] for name in chosen.values()}


def _sizes(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"
