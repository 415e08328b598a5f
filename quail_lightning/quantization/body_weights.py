"""The body's weights of every layout, quantized or not, and which share of them a format quantizes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.models.activations import language_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_LEFT_OUT = 0.1  # share of the body: state-space mixers hold a few weights of their own, routers fewer
Layout = Literal["linear", "own linear", "conv1d", "experts", "transposed experts", "other"]


class BodyWeight(NamedTuple):
    """A weight of the language model's body, with two dimensions or more.

    Attributes:
        name: of the parameter.
        parameter: itself, not a copy; it may be sharded, or lie on the meta device.
        layout: ``linear``: [outputs, inputs] of an ``nn.Linear``; ``own linear``: of a class derived from it;
            ``conv1d``: [inputs, outputs] of GPT-2's layers; ``experts``: [experts, outputs, inputs], as
            transformers stacks them; ``transposed experts``: [experts, inputs, outputs]; ``other``: routers,
            convolutions, and what else no format quantizes.
    """

    name: str
    parameter: Tensor
    layout: Layout

    @property
    def inputs(self) -> int:
        """Length of a row of its matrices."""
        return self.parameter.shape[-2 if self.layout in ("conv1d", "transposed experts") else -1]


def body_weights(model: PreTrainedModel) -> list[BodyWeight]:
    """Every weight between embeddings and output head, in the model's order; of the language model alone."""
    from transformers.pytorch_utils import Conv1D

    apart = {model.get_output_embeddings()}
    found = []
    for owner, module in decoder_modules(model):
        if module in apart or isinstance(module, nn.Embedding):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                continue
            layout: Layout = "other"
            if leaf == "weight" and isinstance(module, nn.Linear):
                layout = "linear" if type(module) is nn.Linear else "own linear"
            elif leaf == "weight" and isinstance(module, Conv1D):
                layout = "conv1d"
            elif parameter.ndim == 3 and not leaf.endswith("bias") and hasattr(module, "is_transposed"):
                layout = "transposed experts" if module.is_transposed else "experts"
            found.append(BodyWeight(f"{owner}.{leaf}", parameter, layout))
    return found


def decoder_modules(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The modules of the language model's decoder with their names in the model; no vision or audio tower."""
    decoder = language_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    return [(".".join(filter(None, (prefix, name))), module) for name, module in decoder.named_modules()]


def matrices(weight: Tensor, layout: Layout) -> list[Tensor]:
    """A weight as matrices [outputs, inputs]: views, so that writing into them writes into the weight.

    Args:
        weight: whole, on any device.
        layout: one that has matrices: not ``other``.
    """
    assert layout != "other"
    stacked = weight.unbind() if "experts" in layout else (weight,)
    return [matrix.T for matrix in stacked] if layout in ("conv1d", "transposed experts") else list(stacked)


def quantized_share(model: PreTrainedModel, names: Collection[str]) -> float:
    """The share of the body's weights that lie in the named parameters, 0 … 1.

    The model may be on the meta device. Routers and other weights that no format quantizes count, embeddings,
    head, norms and biases do not.
    """
    sizes = {id(found.parameter): found.parameter.numel() for found in body_weights(model)}
    chosen = {id(model.get_parameter(name)) for name in names}
    return sum(size for key, size in sizes.items() if key in chosen) / max(1, sum(sizes.values()))


def linear_names(model: PreTrainedModel, method: str) -> list[str]:
    """The weights of the body's linear layers, for a method that takes no others.

    Args:
        model: may be on the meta device.
        method: named in the error.

    Raises:
        InputError: a part of the body that matters has another layout.
    """
    found = body_weights(model)
    names = [each.name for each in found if each.layout in ("linear", "own linear")]
    if convolutions := [each.name for each in found if each.layout == "conv1d"]:
        raise InputError(
            f"{method} quantizes linear layers, and those of {type(model).__name__} are Conv1D "
            f"({convolutions[0]}, ...), for which its format has no place",
            remedy="Use nf4, fp4, int8 or a uniform grid, which take them",
        )
    others = [each for each in found if each.name not in names]
    rest = 1 - quantized_share(model, names)
    if rest > MOST_LEFT_OUT or any("experts" in each.layout for each in others):
        largest = max(others, key=lambda each: each.parameter.numel())
        raise InputError(
            f"{method} quantizes linear layers, and {100 * rest:.0f} % of the body's weights of "
            f"{type(model).__name__} lie in other tensors: stacked experts ({largest.name}, ...)",
            remedy="Use a uniform grid (uniform4-group64), which rounds every expert; nf4, fp4 and int8 leave the "
            "experts at 16 bits",
        )
    return _some(names, model)


def dense_names(model: PreTrainedModel) -> list[str]:
    """The weights of the body's plain linear and Conv1D layers, without stacked experts.

    Raises:
        InputError: there is none.
    """
    return _some([each.name for each in body_weights(model) if each.layout in ("linear", "conv1d")], model)


def matrix_names(model: PreTrainedModel) -> list[str]:
    """The weights of the body's linear and Conv1D layers and its stacked experts.

    Raises:
        InputError: there is none.
    """
    return _some([each.name for each in body_weights(model) if each.layout != "other"], model)


def _some(names: list[str], model: PreTrainedModel) -> list[str]:
    if not names:
        raise InputError(
            f"{type(model).__name__} has no linear layer of the kind that this format quantizes",
            remedy="Use another format for this architecture (docs/quantizers.md), or bf16",
        )
    return names
