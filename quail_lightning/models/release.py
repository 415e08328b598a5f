"""Memory of models that are no longer needed."""

from __future__ import annotations

import gc

import torch
from torch import distributed


def release_memory() -> None:
    """Give back to the device what deleted models held.

    The parts of a sharded model refer to each other, so that it is freed by the garbage collector alone.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
