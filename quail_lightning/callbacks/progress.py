"""The Trainer's progress bars, on lines of 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import convert_inf

from quail_lightning.terminal import Bar


def progress_bars(trainer_options: Mapping[str, Any]) -> list[Callback]:
    """The Trainer's progress bar, unless its options bring one or refuse it.

    It comes before other callbacks: an epoch's bar has ended when its evaluation prints a table.
    """
    given = trainer_options.get("callbacks") or []
    if trainer_options.get("enable_progress_bar") is False or any(isinstance(c, ProgressBar) for c in given):
        return []
    return [TrainingBar()]


class TrainingBar(TQDMProgressBar):
    """Epoch, step, rate, time left and what the module logs for the bar, one line an epoch."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the module logs for the bar; not the run's number."""
        return dict(trainer.progress_bar_metrics)

    def init_sanity_tqdm(self) -> Any:
        return self._bar()

    def init_validation_tqdm(self) -> Any:
        return self._bar(position=int(self.trainer.state.fn != "validate"))

    def init_test_tqdm(self) -> Any:
        return self._bar()

    def _bar(self, **options: Any) -> Bar:
        return Bar(disable=self.is_disabled, file=sys.stdout, smoothing=0, **options)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.train_progress_bar = self._of_epoch(trainer)  # an epoch that is gone on with does not start

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.train_progress_bar.disable:  # closed with the epoch before
            self.train_progress_bar = self._of_epoch(trainer)

    def _of_epoch(self, trainer: Trainer) -> Bar:
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        name = f"epoch {trainer.current_epoch + 1}{of}"
        return self._bar(desc=name, total=convert_inf(self.total_train_batches), leave=True)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.val_progress_bar.set_description_str("validation", refresh=False)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.test_progress_bar.set_description_str("windows", refresh=False)
