"""How likely texts are to another model: what the reference attack measures a likelihood against."""

from __future__ import annotations

from functools import lru_cache

import torch

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.models.checkpoint import load_model
from quail_lightning.quantization import computing


@lru_cache(maxsize=8)  # a text's is the same beside every model and precision
def reference_nlls(
    reference: str, texts: tuple[str, ...], device: torch.device, batch_size: int | None
) -> tuple[float, ...]:
    """Mean NLL of each text under a checkpoint in bfloat16, nats a token.

    It lies beside the model that is evaluated for as long as this takes, once a process.

    Args:
        reference: folder or hub name, with the evaluated model's tokenizer.
        texts: of at least two tokens each, BOS included.
        device: to run it on.
        batch_size: texts at once; None: by free memory.
    """
    model = load_model(reference, torch.bfloat16)
    torch.nn.Module.to(model, device)
    with computing(model):
        found = token_log_likelihoods(model, load_tokenizer(reference), texts, batch_size)
    return tuple(float(-values.double().mean()) for values in found)
