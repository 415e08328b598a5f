"""Which weights are trained."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from quail_lightning.errors import InputError
from quail_lightning.models.activations import language_decoder
from quail_lightning.quantization.body_weights import matrix_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Trainable = Literal["all", "quantized"] | list[str]


def train_only(model: PreTrainedModel, trainable: Trainable) -> None:
    """Give gradients to the chosen weights alone.

    Args:
        model: changed in place.
        trainable: ``all`` of the language model, not a multimodal model's towers; the ``quantized`` ones (matrices
            of the language model's body: linear layers, stacked experts); or patterns of parameter names, such as
            ``*.mlp.down_proj.weight``.

    Raises:
        InputError: a pattern that fits no parameter.
    """
    if trainable == "all":
        parts = (language_decoder(model), model.get_output_embeddings())
        chosen = {id(parameter) for part in parts for parameter in part.parameters()}
    elif trainable == "quantized":
        chosen = {id(model.get_parameter(name)) for name in matrix_names(model)}
    else:
        names = dict(model.named_parameters())
        chosen = {id(names[name]) for name in matching_names(list(names), trainable)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def matching_names(
    names: Sequence[str], patterns: Sequence[str], option: str = "model.trainable", what: str = "weights"
) -> list[str]:
    """The names that fit any of the patterns, in their own order.

    Args:
        names: of what can be chosen.
        patterns: of the names that are.
        option: that gave the patterns, for the message.
        what: the names are of.

    Raises:
        InputError: naming every pattern that fits none, and the names that come near.
    """
    if not patterns:
        raise InputError(f"{option} names no {what}", allowed=f"patterns of the names of {what}")
    useless = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if useless:
        near = [name for pattern in useless for name in get_close_matches(pattern, names, n=2, cutoff=0.3)]
        shown = list(dict.fromkeys(near)) or list(names)[:12]
        raise InputError(
            f"{option} names {what} that the model does not have",
            given=", ".join(useless),
            allowed=f"patterns of the names of its {len(names)} {what}, such as {', '.join(shown)}",
        )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
