"""What one process finds wrong, all of them refuse: a process left alone would wait for the others for ever."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Trainer

from quail_lightning.errors import InputError


def check_by_first_process(trainer: Trainer, check: Callable[[], None]) -> None:
    """Let the first process check; all must call.

    Raises:
        InputError: the one that ``check`` raised there.
    """
    problem = None
    if trainer.is_global_zero:
        try:
            check()
        except InputError as found:
            problem = found
    if problem := trainer.strategy.broadcast(problem):
        raise problem
