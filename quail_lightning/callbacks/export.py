"""Save the unlearned model when training ends."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.callbacks.first_process import check_by_first_process
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import save_model
from quail_lightning.run_folder import run_folder
from quail_lightning.unlearning.checks import check_export
from quail_lightning.unlearning.export import saved_copy


class ExportModel(Callback):
    """Write the unlearned model in Hugging Face format, with tokenizer and provenance, to the run's folder.

    What is written is what was evaluated: the same weights in the same dtype.

    Args:
        enabled: False writes nothing.
        folder: name of the model's folder inside the run's.
    """

    def __init__(self, enabled: bool = True, folder: str = "model") -> None:
        self.enabled, self.folder = enabled, folder

    def check(self, trainer: Trainer) -> None:
        """Refuse to train a model that could not be saved.

        Raises:
            InputError: the model's folder exists already.
        """
        out = run_folder(trainer) / self.folder
        if self.enabled and out.exists() and trainer.is_global_zero:
            raise InputError(
                f"the model would be saved to {out}, which exists already",
                remedy="Set export.folder to a new name",
            )

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Try to save the model, before it is trained, everything but the weights."""
        if stage != "fit":
            return
        self.check(trainer)
        out = run_folder(trainer) / self.folder
        if self.enabled:
            check_by_first_process(trainer, partial(check_export, pl_module, out))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.enabled:
            return
        out = run_folder(trainer) / self.folder
        model = saved_copy(pl_module)  # gathered by all processes
        if model is None or not trainer.is_global_zero:
            return
        provenance = pl_module.describe() | {"finished_epochs": trainer.current_epoch}
        save_model(model, pl_module.tokenizer, out, provenance)
        rank_zero_info(f"unlearned model: {out}")
