"""Save the unlearned model when training ends."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import save_model
from quail_lightning.run_folder import run_folder


class ExportModel(Callback):
    """Write the unlearned model in Hugging Face format, with tokenizer and provenance, to the run's folder.

    What is written is what was evaluated: ``UnlearningModule.export_model``.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        out = run_folder(trainer) / self.folder
        model = pl_module.export_model()  # type: ignore[operator]  # gathered by all processes
        if not trainer.is_global_zero:
            return
        provenance = pl_module.describe() | {"finished_epochs": trainer.current_epoch}  # type: ignore[operator]
        save_model(model, pl_module.tokenizer, out, provenance)
        rank_zero_info(f"unlearned model: {out}")
