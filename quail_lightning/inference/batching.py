"""How many rows go through a model at once: by free memory, and by what a cache line is good for on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.4  # of the free memory: the estimates below are rough
WIDTHS_A_TOKEN = 24  # vectors of the model's width that one decoder layer holds for a token at its peak
MOST_ROWS = {"cpu": 32, "other": 256}
CPU_TOKENS = 2_048  # in one forward pass without a cache: more than fits the processor's caches gains nothing
MOST_TOKENS = 65_536  # likewise elsewhere, where a pass of this size has long filled the device
WITHOUT_ESTIMATE = 8 * 2**30  # bytes taken for free where nobody tells


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return WITHOUT_ESTIMATE


def generation_rows(model: PreTrainedModel, tokens: int) -> int:
    """Prompts to continue together.

    Args:
        model: on its device.
        tokens: longest prompt and new tokens together.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * head_width * model.dtype.itemsize
    row = tokens * (cached + _passing(model)) + 8 * config.vocab_size
    return _bounded(model, SHARE * free_bytes(model.device) / row)


def likelihood_rows(model: PreTrainedModel, tokens: int) -> int:
    """Texts to evaluate together; ``tokens``: the longest."""
    most = CPU_TOKENS if model.device.type == "cpu" else MOST_TOKENS
    affordable = SHARE * free_bytes(model.device) / _passing(model)
    return _bounded(model, min(most, affordable) / tokens)


def _passing(model: PreTrainedModel) -> int:
    """Bytes that one token takes on its way through a layer."""
    return WIDTHS_A_TOKEN * int(model.config.get_text_config().hidden_size) * model.dtype.itemsize


def _bounded(model: PreTrainedModel, rows: float) -> int:
    most = MOST_ROWS["cpu" if model.device.type == "cpu" else "other"]
    return max(1, min(most, int(rows)))
