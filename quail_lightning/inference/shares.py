"""Records divided among processes by whole batches, so that every figure is the one that one process gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from quail_lightning.models.lockstep import in_step
from quail_lightning.run.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")


class Shares:
    """Hands the batches of one evaluation out to the processes in turn, from one metric to the next.

    A batch holds the records that it would hold if one process made them all: in bfloat16 a completion can depend
    on what it is batched with.

    Args:
        processes: that share the work; each makes the same calls with the same records.
    """

    def __init__(self, processes: Processes = Processes()) -> None:  # noqa: B008 (frozen)
        self._processes, self._handed_out = processes, 0

    def rows(self, wanted: int | None, fitting: int, count: int) -> int:
        """Records a batch, the same on every process.

        Args:
            wanted: as configured; taken as it is.
            fitting: as many as this process has memory for, where none are configured; then no process is to be
                left without work for the sake of a larger batch.
            count: all records.
        """
        if wanted is not None or self._processes.world_size == 1:
            return wanted or fitting
        return min(-(-count // self._processes.world_size), *self._processes.gather(fitting))

    def own(self, order: Sequence[int], rows: int) -> list[int]:
        """The records of this process's batches; cut by ``rows`` again they give those batches.

        Args:
            order: all records' numbers, in the order in which batches are cut from them.
            rows: records a batch; the last batch holds what is left.
        """
        chosen: list[int] = []
        for start in range(0, len(order), rows):
            if self._handed_out % self._processes.world_size == self._processes.rank:
                chosen += order[start : start + rows]
            self._handed_out += 1
        return chosen

    def merged(self, own: Sequence[int], results: Sequence[Result]) -> list[Result]:
        """One result a record, of all processes.

        Args:
            own: the records of this process.
            results: one a record, of which those of ``own`` are known.
        """
        if self._processes.world_size == 1:
            return list(results)
        return self._processes.merged([(number, results[number]) for number in own], len(results))


_current: ContextVar[Shares | None] = ContextVar("shares", default=None)


def current_shares() -> Shares:
    """Those of the evaluation under way; all work is this process's own where nothing is shared."""
    return _current.get() or Shares()


@contextmanager
def shared_among(processes: Processes, model: PreTrainedModel) -> Iterator[None]:
    """Completions and likelihoods asked for inside are shared; all processes ask for the same, in one order.

    Of a sharded model each process makes the passes of its own batches while the others keep step.

    Args:
        processes: that share the work.
        model: that is evaluated inside, and no other.
    """
    with in_step(model, processes) as asked:
        token = _current.set(Shares(asked))
        try:
            yield
        finally:
            _current.reset(token)
