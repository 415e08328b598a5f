"""Forget and retain windows in the order that a schedule visits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from quail_lightning.data.batch import ForgetRetainBatch, TokenBatch
from quail_lightning.functional.masking import labels_of, token_numbers, without_common_padding
from quail_lightning.run.processes import world_size

Schedule = Literal["alternate", "epoch", "joint"]
Step = tuple[list[int], list[int]]  # numbers of the forget windows and of the retain windows of one batch


class ForgetRetainWindows(Dataset[ForgetRetainBatch]):
    """Whole batches by the numbers of their windows; an empty side of a batch is None.

    Args:
        forget: [n, time] token windows of the forget set, which may mask tokens (``functional.masking``); or
            [n, 2, time] true and alternate answers.
        retain: [m, time] token windows of the retain set, likewise.
    """

    def __init__(self, forget: Tensor, retain: Tensor) -> None:
        self.forget, self.retain = forget, retain

    def __getitem__(self, step: Step) -> ForgetRetainBatch:
        forget, retain = step
        return ForgetRetainBatch(_batch(self.forget, forget), _batch(self.retain, retain))


class StepSampler(DistributedSampler[Step]):
    """The steps of one epoch, shuffled by seed and epoch alone; every process is given the same, whole steps.

    A step of several processes holds as many windows as all of them take together; which of them are whose is
    decided where the loss is computed. It is a ``DistributedSampler`` because Lightning leaves those alone.

    ``joint`` and ``alternate`` pair every forget window with a retain window; the retain windows are taken
    from one endless walk through shuffled passes over the whole retain set, so that an epoch goes on where
    the one before it stopped and every retain window is seen as often as any other. ``epoch`` yields every
    forget batch, then every retain batch (QUAIL, Algorithm 1).

    Args:
        forget_count: windows of the forget set, at least 1.
        retain_count: windows of the retain set; with none every step is a forget step.
        batch_size: windows of each kind in one step, a process.
        schedule: see above.
        seed: of the shuffles.
        processes: that train together; None asks torch.
    """

    def __init__(
        self,
        forget_count: int,
        retain_count: int,
        batch_size: int,
        schedule: Schedule,
        seed: int,
        processes: int | None = None,
    ) -> None:
        self.forget_count, self.retain_count = forget_count, retain_count
        self.batch_size = batch_size * (processes or world_size())
        self.schedule, self.seed = schedule, seed
        self.epoch = 0
        self.skipped = 0  # steps that the next pass leaves out, having been made before the run was resumed

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        forget_steps = -(-self.forget_count // self.batch_size)
        if self.schedule != "epoch":
            return forget_steps
        return forget_steps + -(-self.retain_count // self.batch_size)

    def __iter__(self) -> Iterator[Step]:
        skipped, self.skipped = self.skipped, 0
        yield from islice(self._steps(), skipped, None)

    def _steps(self) -> Iterator[Step]:
        forget = self._pass("forget", self.epoch)
        if self.schedule == "epoch":
            yield from ((part, []) for part in _chunks(forget, self.batch_size))
            yield from (([], part) for part in _chunks(self._pass("retain", self.epoch), self.batch_size))
            return
        if not self.retain_count:
            yield from ((part, []) for part in _chunks(forget, self.batch_size))
            return
        retain = self._walk(self.epoch * self.forget_count, self.forget_count)
        yield from zip(_chunks(forget, self.batch_size), _chunks(retain, self.batch_size), strict=True)

    def _walk(self, start: int, count: int) -> list[int]:
        """``count`` retain windows from position ``start`` of the endless walk."""
        first, last = start // self.retain_count, (start + count - 1) // self.retain_count
        passes = [window for number in range(first, last + 1) for window in self._pass("retain", number)]
        offset = start - first * self.retain_count
        return passes[offset : offset + count]

    def _pass(self, kind: Literal["forget", "retain"], number: int) -> list[int]:
        count = self.forget_count if kind == "forget" else self.retain_count
        # a generator seeded by a hash-free mix: the same order on any machine and with any number of workers
        mixed = (self.seed * 1_000_003 + number) * 2 + (kind == "retain")
        return torch.randperm(count, generator=torch.Generator().manual_seed(mixed)).tolist()


class EveryWindow(DistributedSampler[Step]):
    """Every window once, in order: the forget set, then the retain set; whole steps for every process.

    Args:
        forget_count: windows of the forget set.
        retain_count: windows of the retain set.
        batch_size: windows in one step, a process.
        processes: that evaluate together; None asks torch.
    """

    def __init__(
        self, forget_count: int, retain_count: int, batch_size: int, processes: int | None = None
    ) -> None:
        size = batch_size * (processes or world_size())
        self.steps: list[Step] = [(part, []) for part in _chunks(list(range(forget_count)), size)]
        self.steps += [([], part) for part in _chunks(list(range(retain_count)), size)]
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


class StepLoader(DataLoader[ForgetRetainBatch]):
    """Loads what a ``StepSampler`` yields, and goes on inside an epoch where a checkpoint was written.

    ``state_dict`` and ``load_state_dict`` are what Lightning asks of a loader that can be resumed.
    """

    _yielded = 0

    def __iter__(self) -> Iterator[ForgetRetainBatch]:  # type: ignore[override]
        # a generator, so that worker processes ask for the epoch's order only once its number is set
        self._yielded = getattr(self.sampler, "skipped", 0)
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Batches handed out in this epoch."""
        return {"batches": self._yielded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leave out, in the next pass, the batches that were handed out."""
        assert isinstance(self.sampler, StepSampler)
        self.sampler.skipped = state["batches"]


def step_loader(windows: ForgetRetainWindows, sampler: Any, workers: int = 0) -> StepLoader:
    """A loader of whole steps; their order depends on the sampler alone, whatever the number of workers.

    Its generator is its own: PyTorch draws a seed for the workers from it at every pass, which would otherwise
    move the global random state on, and differently after a resume.
    """
    # the windows lie in memory: worker processes would only copy them
    generator = torch.Generator().manual_seed(0)
    return StepLoader(windows, sampler=sampler, batch_size=None, num_workers=workers, generator=generator)


def _batch(windows: Tensor, numbers: Sequence[int]) -> TokenBatch | None:
    if not numbers:
        return None
    index = torch.tensor(numbers)
    chosen = without_common_padding(windows[index])
    return TokenBatch(input_ids=token_numbers(chosen), labels=labels_of(chosen), window=index)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
