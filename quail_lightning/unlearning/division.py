"""How one optimizer step is divided: over the processes, and over passes that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.run.processes import Processes


def passes(batch: TokenBatch, most: int | None, processes: Processes) -> Iterator[tuple[TokenBatch, float]]:
    """This process's passes of a step, each with its share of the whole step's real tokens.

    All shares of all processes sum to 1, so that the weighted sum of the passes' mean losses is the step's however
    it is divided. Every process makes the same number of passes, since they gather weights together: one that has
    no window left repeats the step's first with share 0.

    Worked: 3 windows, 2 processes, at most 1 window a pass → windows 0 and 1; window 2, then window 0 at share 0.

    Args:
        batch: the windows of all processes, the same everywhere.
        most: windows a pass; None: all of a process's at once.
        processes: that share the step.
    """
    count = len(batch.input_ids)
    total = (batch.labels[:, 1:] != IGNORED).sum()
    longest = -(-count // processes.world_size)
    size = min(longest, most or longest)
    own = processes.part(count)
    for start in range(0, longest, size):
        rows = own[start : start + size]
        if not rows:
            yield TokenBatch(*(tensor[:1] for tensor in batch)), 0.0
            continue
        part = TokenBatch(*(tensor[rows.start : rows.stop] for tensor in batch))
        yield part, float((part.labels[:, 1:] != IGNORED).sum() / total)
