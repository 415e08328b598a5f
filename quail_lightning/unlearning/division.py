"""How one optimizer step is divided: over the processes, and over passes that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.token_likelihood import Unit, counted
from quail_lightning.objectives import Term
from quail_lightning.run.processes import Processes


class Share(NamedTuple):
    """A pass's part of a whole step's real tokens, of its windows and of its positions; see ``counted``.

    They differ under a mask: a mean over tokens weighs a window by its real ones, a mean over windows does not.
    """

    tokens: float
    windows: float
    positions: float

    def of(self, losses: Mapping[str, Tensor], terms: Mapping[str, Term]) -> dict[str, Tensor]:
        """What a pass adds to the step's losses: each of its own, times the share of what it is a mean over."""
        return {name: getattr(self, terms[name].needs.mean_over) * loss for name, loss in losses.items()}


def passes(batch: TokenBatch, most: int | None, processes: Processes) -> Iterator[tuple[TokenBatch, Share]]:
    """This process's passes of a step, each with its share of the whole step.

    All shares of all processes sum to 1, so that the weighted sum of the passes' mean losses is the step's however
    it is divided. Every process makes the same number of passes, since they gather weights together: one that has
    no window left repeats the step's first with share 0.

    A true answer and its alternate are one window and stay together.

    Worked: 3 windows, 2 processes, at most 1 window a pass → windows 0 and 1; window 2, then window 0 at share 0.

    Args:
        batch: the windows of all processes, the same everywhere.
        most: windows a pass; None: all of a process's at once.
        processes: that share the step.
    """
    count = len(batch.input_ids)
    whole = _counts(batch)
    longest = -(-count // processes.world_size)
    size = min(longest, most or longest)
    own = processes.part(count)
    for start in range(0, longest, size):
        rows = own[start : start + size]
        if not rows:
            yield TokenBatch(*(tensor[:1] for tensor in batch)), Share(0.0, 0.0, 0.0)
            continue
        part = TokenBatch(*(tensor[rows.start : rows.stop] for tensor in batch))
        yield part, Share(*(_counts(part) / whole.clamp(min=1)).tolist())


def _counts(batch: TokenBatch) -> Tensor:
    """[3] float64: the real tokens, windows and positions, of true answers where there are alternates."""
    units: tuple[Unit, ...] = ("tokens", "windows", "positions")
    return torch.stack([counted(batch.true_labels[:, 1:], unit).sum() for unit in units]).cpu().double()
