"""What is quantized: the linear layers of the body, and nothing else (QUAIL VII-C2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.quantization.body_weights import decoder_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_NAMED = 8  # layers in one error


def quantized_linears(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """Every ``nn.Linear`` of the language model except the output head, with its name, in the model's order.

    Embeddings, norms, biases and a multimodal model's towers stay in full precision. Layers that are no
    ``nn.Linear`` (GPT-2's ``Conv1D``, stacked experts) are not listed; see ``body_weights``.

    Raises:
        InputError: there is none.
    """
    head = model.get_output_embeddings()
    linears = [
        (name, module)
        for name, module in decoder_modules(model)
        if isinstance(module, nn.Linear) and module is not head
    ]
    if not linears:
        raise InputError(
            f"{type(model).__name__} has no nn.Linear besides its output head",
            remedy="What looks at linear layers alone (`quail analyze`, BucketOverlap, SURE) is not for it",
        )
    return linears


def refuse_non_finite(linears: list[tuple[str, nn.Linear]]) -> None:
    """Refuse NaN and infinity, which would spread over every weight that shares a scale.

    Raises:
        InputError: naming every weight concerned.
    """
    refuse_broken([f"{name}.weight" for name, linear in linears if not is_finite(linear.weight.detach())])


def refuse_broken(names: Sequence[str]) -> None:
    """Refuse weights that are not finite, if there are any.

    Raises:
        InputError: naming every weight concerned.
    """
    if names:
        raise InputError(
            f"weights to be quantized must be finite; NaN or infinity in {', '.join(names)}",
            remedy="The training that made this model diverged: go back to an earlier checkpoint",
        )


def refuse_indivisible(inputs: Mapping[str, int], group_size: int | None, remedy: str) -> None:
    """Refuse a group size that leaves a part of a row over.

    Args:
        inputs: of the layers to be quantized, the length of a row.
        group_size: inputs that share a step; None is always fine.
        remedy: what the user can set instead.

    Raises:
        InputError: naming every layer concerned with its inputs.
    """
    if group_size is None:
        return
    misfits = [f"{name} ({length})" for name, length in inputs.items() if length % group_size]
    if misfits:
        named = ", ".join(misfits[:MOST_NAMED]) + (
            f" and {more} more" if (more := len(misfits) - MOST_NAMED) > 0 else ""
        )
        raise InputError(
            f"group_size must divide the inputs of every quantized layer, not so for {named}",
            given=group_size,
            remedy=remedy,
        )


def copy_unconverted(source: PreTrainedModel, quantized: PreTrainedModel, converted: Collection[str]) -> None:
    """Give a copy its own embeddings, norms, head and buffers, bit for bit those of ``source``.

    After ``from_pretrained(state_dict=…)`` they lie in the source's memory, are cast to one dtype, and
    non-persistent buffers (RoPE's frequencies) are rebuilt rather than copied. Ties stay: each parameter object
    is filled once.

    Args:
        source: the model whose ``state_dict`` the copy was made from.
        quantized: the copy, changed in place.
        converted: names of the layers whose weights another class holds now; their biases are copied.
    """
    originals = dict(source.named_parameters())
    for name, parameter in quantized.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if owner not in converted or leaf == "bias":
            parameter.data = originals[name].detach().clone()
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(quantized.get_submodule(owner), leaf, buffer.detach().clone())
