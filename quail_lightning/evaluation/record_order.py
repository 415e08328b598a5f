"""Per-record scores of several processes, put back into the records' order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(state: Tensor | Sequence[Tensor]) -> Tensor:
    """A concatenated state of a torchmetrics metric, [n], whether it is a list yet or already one tensor."""
    if isinstance(state, Tensor):
        return state.reshape(-1)
    return torch.cat([part.reshape(-1) for part in state]) if state else torch.zeros(0, dtype=torch.float64)


def in_record_order(index: Tensor | Sequence[Tensor], scores: Tensor | Sequence[Tensor]) -> Tensor:
    """Scores sorted by their record's number, each record once.

    A distributed sampler hands some records to two processes to even out the lengths; only one score of each
    is kept.

    Args:
        index: [n] record numbers, or the pieces of it.
        scores: [n], or the pieces of it.

    Returns:
        [records] float64 on the CPU.
    """
    numbers, values = joined(index).cpu(), joined(scores).cpu().double()
    order = torch.argsort(numbers, stable=True)
    numbers, values = numbers[order], values[order]
    first = torch.ones(len(numbers), dtype=torch.bool)
    first[1:] = numbers[1:] != numbers[:-1]
    return values[first]
