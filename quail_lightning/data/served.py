"""What a DataModule serves once it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from quail_lightning.data.batch import ForgetRetainBatch
from quail_lightning.data.forget_retain import EveryWindow, ForgetRetainWindows, Schedule, StepSampler, step_loader
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.data.sets import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Served:
    """Windows and records of a corpus, and the loaders over them.

    Attributes:
        tokenizer: that cut them.
        windows: [n, time] of the two sets.
        trained: those that the steps see: the same, or others in the forget set's place (refusals).
        records: that the evaluation reads.
        batch_size: windows of each kind in one optimizer step, a process.
        schedule: order of the steps.
        seed: of the windows' order.
    """

    tokenizer: PreTrainedTokenizerBase
    windows: Windows
    trained: Windows
    records: EvaluationRecords
    batch_size: int
    schedule: Schedule
    seed: int

    def steps(self) -> DataLoader[ForgetRetainBatch]:
        """The steps of an epoch in the schedule's order."""
        counts = (len(self.trained.forget), len(self.trained.retain))
        sampler = StepSampler(*counts, self.batch_size, self.schedule, self.seed)
        return step_loader(ForgetRetainWindows(*self.trained), sampler)

    def every_window(self) -> DataLoader[ForgetRetainBatch]:
        """Every window once: the forget set, then the retain set."""
        sampler = EveryWindow(len(self.windows.forget), len(self.windows.retain), self.batch_size)
        return step_loader(ForgetRetainWindows(*self.windows), sampler)


class ServedDataModule(LightningDataModule):
    """Lightning's loaders over what ``setup`` leaves.

    Attributes:
        served: after ``setup``.
    """

    served: Served

    def train_dataloader(self) -> DataLoader[ForgetRetainBatch]:
        """The steps of an epoch."""
        return self.served.steps()

    def val_dataloader(self) -> DataLoader[ForgetRetainBatch]:
        """Every window once."""
        return self.served.every_window()

    def test_dataloader(self) -> DataLoader[ForgetRetainBatch]:
        """Every window once."""
        return self.val_dataloader()
