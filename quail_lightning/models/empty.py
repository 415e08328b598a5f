"""A checkpoint's architecture without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quail_lightning.errors import InputError
from quail_lightning.models.adapters import adapter_in

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel


def empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The architecture of a checkpoint on the meta device.

    Raises:
        InputError: the config is of no causal language model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise InputError(f"no causal language model: {str(error).splitlines()[0]}") from error
    return model


def stored_generation_config(name_or_path: str, model: PreTrainedModel) -> GenerationConfig:
    """A checkpoint's own, which an empty model has not; where there is none, the one that its config makes."""
    from transformers import GenerationConfig

    if (adapter := adapter_in(name_or_path)) is not None:
        return stored_generation_config(adapter.base, model)
    try:
        return GenerationConfig.from_pretrained(name_or_path)
    except OSError:
        own: GenerationConfig = model.generation_config
        return own
