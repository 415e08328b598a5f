"""A checkpoint's architecture without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel


def empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The architecture of a checkpoint on the meta device."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return model


def stored_generation_config(name_or_path: str, model: PreTrainedModel) -> GenerationConfig:
    """A checkpoint's own, which an empty model has not; where there is none, the one that its config makes."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(name_or_path)
    except OSError:
        own: GenerationConfig = model.generation_config
        return own
