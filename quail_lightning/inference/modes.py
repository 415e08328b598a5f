"""Evaluation mode that is taken back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode and no gradients inside; each module's own mode restored on the way out.

    ``no_grad`` and not ``inference_mode``: a buffer that a model creates in here (rotary caches) must still be
    usable in training.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
