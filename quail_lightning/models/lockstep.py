"""Processes that share a sharded model, each with passes of its own to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from quail_lightning.models.activations import language_decoder
from quail_lightning.models.sharded import announcing, is_sharded, unannounced
from quail_lightning.run.processes import Processes, sum_over_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Lockstep:
    """Lets every process run a sharded model as often as it needs to, while the others keep step.

    A pass of a sharded model takes all processes. Each pass is announced; who waits for the others, at the barrier
    or to tell them something, answers with a pass of its own, whose result nobody reads, until all wait.

    Args:
        processes: that hold the model.
        dummy: a pass of the model.
        device: of the announcements.
    """

    def __init__(self, processes: Processes, dummy: Callable[[], object], device: torch.device) -> None:
        self._processes, self._dummy, self._device = processes, dummy, device

    def processes(self) -> Processes:
        """The same processes, who keep step whenever they wait."""
        return replace(self._processes, barrier=self.wait, gather=self._gather)

    def announce(self) -> None:
        """This process is about to run the model."""
        self._passing(1)

    def wait(self) -> None:
        """Until all processes wait."""
        while self._passing(0):
            self._dummy()

    def _gather(self, value: Any) -> list[Any]:
        self.wait()
        return self._processes.gather(value)

    def _passing(self, own: int) -> int:
        count = torch.tensor([own], device=self._device)
        sum_over_processes([count])
        return int(count)


@contextmanager
def in_step(model: PreTrainedModel, processes: Processes) -> Iterator[Processes]:
    """Inside, every process may run a model as often as it likes; of a sharded one the others then keep step.

    All processes must enter and leave, and talk to each other by the yielded processes alone.

    Args:
        model: whose passes are made by ``inside``, each a single one.
        processes: that hold it.
    """
    if not is_sharded(model):
        yield processes
        return
    device = next(model.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)

    def dummy() -> None:
        with torch.no_grad():
            unannounced(model, lambda: language_decoder(model)(input_ids=token, use_cache=False))

    lockstep = Lockstep(processes, dummy, device)
    with announcing(model, lockstep.announce):
        yield lockstep.processes()
        lockstep.wait()
