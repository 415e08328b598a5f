"""Save the unlearned model when training ends."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.callbacks.first_process import check_by_first_process
from quail_lightning.callbacks.order import run_last
from quail_lightning.errors import InputError, RunError, add_hint
from quail_lightning.evaluation.card import unlearned_card
from quail_lightning.models.adapters import BASE_DIGEST, adapter_in
from quail_lightning.models.rescue import save_or_rescue
from quail_lightning.run.folder import run_folder
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.storage.durable import write_failure
from quail_lightning.unlearning.adapter_checks import check_own_folder
from quail_lightning.unlearning.checks import check_export
from quail_lightning.unlearning.merging import AdapterAlone
from quail_lightning.unlearning.provenance import description


class ExportModel(Callback):
    """Write the unlearned model in Hugging Face format, with tokenizer and provenance, to the run's folder.

    What is written is what was evaluated: the same weights in the same dtype.

    Args:
        enabled: False writes nothing.
        folder: name of the model's folder inside the run's.
        merge: of a trained adapter, write the merged model; False writes the adapter alone, in peft's layout, and
            wherever that is loaded here it is merged and cast in the same way.
    """

    def __init__(self, enabled: bool = True, folder: str = "model", merge: bool = True) -> None:
        self.enabled, self.folder, self.merge = enabled, folder, merge
        self._tried = False  # to save what the whole training made

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
        if self.enabled and not self.merge:
            on_adapter = adapter_in(pl_module.start or pl_module.target) is not None
            check_own_folder(pl_module.adapter, pl_module.task_vector is not None, on_adapter)
        run_last(trainer, self)  # the model's card shows what the evaluation found
        self.check(trainer)
        out = run_folder(trainer) / self.folder
        if self.enabled:
            check_by_first_process(trainer, partial(check_export, pl_module, out, adapter_alone=not self.merge))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.enabled:
            return
        self._tried = True
        out = run_folder(trainer) / self.folder
        model = self._saved(pl_module)  # gathered by all processes
        if model is None or not trainer.is_global_zero:
            return
        provenance = self._description(pl_module) | {"finished_epochs": trainer.current_epoch}
        card = unlearned_card(out.name, out.parent, provenance)
        save_or_rescue(model, pl_module.tokenizer, out, provenance, card)
        rank_zero_info(f"unlearned model: {out}")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Where a write ends the run, keep what was trained so far, unless a checkpoint does."""
        if not self.enabled or trainer.state.fn != "fit" or not trainer.global_step:
            return
        failed = any(each is not None and write_failure(each) for each in (exception, exception.__cause__))
        if not failed or self._tried or trainer.world_size > 1:  # several processes would wait for each other
            return
        folder = run_folder(trainer)
        out = folder / self.folder
        if out.exists() or last_checkpoint(folder) is not None:
            return
        model = self._saved(pl_module)
        ended = {"finished_epochs": trainer.current_epoch, "cut_short": str(exception)}
        try:
            save_or_rescue(model, pl_module.tokenizer, out, self._description(pl_module) | ended)
            told = f"The model as it was then lies in {out}"
        except RunError as error:
            told = f"Of the model as it was then: {error}"
        add_hint(exception, told)

    def _saved(self, pl_module: Any) -> Any:
        if self.merge:
            return pl_module.export.saved_copy(pl_module.model)
        return AdapterAlone(pl_module.model, pl_module.start or pl_module.target)

    def _description(self, pl_module: Any) -> dict[str, Any]:
        """What made the model, and of an adapter alone its base."""
        if self.merge:
            return description(pl_module)
        found = description(pl_module)  # of the base as it was before training
        base = {"base": pl_module.start or pl_module.target}
        return found | base | {BASE_DIGEST: found["start_sha256"] or found["target_sha256"]}
