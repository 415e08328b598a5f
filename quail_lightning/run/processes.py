"""The ranks of one job, and what they tell each other."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, distributed

T = TypeVar("T")


def _alone(value: T) -> list[T]:
    return [value]


@dataclass(frozen=True)
class Processes:
    """This rank of a job, and the exchange with the others.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        barrier: waits for all of them.
        gather: every rank's value, in their order; all must call.
    """

    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], object] = lambda: None
    gather: Callable[[Any], list[Any]] = _alone

    def part(self, length: int) -> range:
        """This rank's positions of ``length``: adjoining, ⌈length / world_size⌉ each until none are left.

        Worked: 3 positions, 2 processes → 0 and 1, then 2; 1 position → 0, then none.
        """
        size = -(-length // self.world_size)
        return range(min(self.rank * size, length), min((self.rank + 1) * size, length))

    def merged(self, own: Sequence[tuple[int, T]], length: int) -> list[T]:
        """Every process's (position, value) pairs as one list of ``length``; all must call."""
        everyone = {position: value for part in self.gather(list(own)) for position, value in part}
        return [everyone[position] for position in range(length)]


def current_processes() -> Processes:
    """Those of torch's process group; rank 0 of 1 where there is none."""
    if not _grouped():
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size(), distributed.barrier, _gather)


def world_size() -> int:
    """How many processes run together; 1 where there is no process group."""
    return distributed.get_world_size() if _grouped() else 1


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place; all must call with the same shapes."""
    if world_size() == 1:
        return
    # one call a tensor, none awaited before the last: no copy of all of them in one buffer
    for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
        work.wait()


def end_together(status: int) -> None:
    """End a program that ran with others without taking Python down; nothing happens where it ran alone.

    A thread of Gloo lets go of the last exchange's tensors a moment after the exchange was waited for. If Python
    is being taken down by then, it ends that thread, and C++ the whole process (SIGABRT) after all work is done.
    The threads cannot be waited for: the caches of DTensor keep the group beyond ``destroy_process_group``.
    """
    if not _grouped():
        return
    atexit._run_exitfuncs()  # private: temporary folders, logs; os._exit leaves them out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
