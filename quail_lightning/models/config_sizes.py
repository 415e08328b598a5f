"""Sizes in a checkpoint's config that no model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
NOT_NEGATIVE = ("num_experts", "num_experts_per_tok")  # mixtures' dense variants have none
REMEDY = "Copy or download config.json again"


def check_stored_sizes(config: Mapping[str, Any], name: str) -> None:
    """The same of a config as it is stored, before the library divides by a size.

    Raises:
        InputError: naming the size.
    """
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            _refuse_smaller(1, {field: part.get(field) for field in POSITIVE}, name)


def check_sizes(config: PreTrainedConfig, name: str) -> None:
    """See that the sizes of a language model's config can be those of a model; what is not set is not looked at.

    Args:
        config: as the library has read it, each architecture's own names mapped to the common ones.
        name: of the checkpoint.

    Raises:
        InputError: naming the size.
    """
    text = config.get_text_config()
    _refuse_smaller(1, {field: getattr(text, field, None) for field in POSITIVE}, name)
    _refuse_smaller(0, {field: getattr(text, field, None) for field in NOT_NEGATIVE}, name)
    heads, groups = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise InputError(
            f"the config of {name!r} says num_key_value_heads {groups}, which does not divide its {heads} heads",
            remedy=REMEDY,
        )
    experts, used = getattr(text, "num_experts", None), getattr(text, "num_experts_per_tok", None)
    if isinstance(experts, int) and isinstance(used, int) and experts > 0 and not 0 < used <= experts:
        raise InputError(
            f"the config of {name!r} says num_experts_per_tok {used}, and has {experts} experts", remedy=REMEDY
        )


def _refuse_smaller(least: int, sizes: Mapping[str, Any], name: str) -> None:
    for field, found in sizes.items():
        values = found if isinstance(found, Sequence) else [found]  # some architectures give one a layer
        if wrong := [value for value in values if isinstance(value, (int, float)) and value < least]:
            raise InputError(
                f"the config of {name!r} says {field} {wrong[0]}", allowed=f"at least {least}", remedy=REMEDY
            )
