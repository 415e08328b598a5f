"""Log after every epoch how much of the update a grid or a format would see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from quail_lightning.callbacks.progress_of_fit import trained_steps
from quail_lightning.comparison import (
    CastWeights,
    Comparison,
    ModelWeights,
    Questions,
    SharedStep,
    compare,
    compared_parameters,
    formats,
    key_for,
    parameter_roles,
    roles_from_config,
    total_delivery,
    total_overlap,
)
from quail_lightning.comparison.layer_figure import overlap_by_layer
from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import GridKind
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import load_quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BucketOverlap(Callback):
    """Bucket overlap and delivered shift of the quantized weights, as ``analysis/...``; TensorBoard has a figure.

    What would be exported now is compared with the target as it is loaded in the export dtype; see
    ``quail analyze`` for what the figures mean. Nothing that is trained, and no random state, is touched. The
    target is read from its files in pieces, the export is a copy of the model.

    Args:
        bits: widths of the overlap, 1 … 16.
        granularities: one step for the model, one for each tensor.
        grid: formula of the overlap's grid; ``minmax-floor`` is QUAIL's.
        formats: precisions whose delivered shift is measured.
        every_n_epochs: how often; the last epoch is logged in any case.

    Raises:
        InputError: a number out of its range, an unknown precision, or one whose buckets depend on more than
            the weights.
    """

    def __init__(
        self,
        bits: Sequence[int] = (16, 8, 4),
        granularities: Sequence[SharedStep] = ("global", "tensor"),
        grid: GridKind = "minmax-floor",
        formats: Sequence[str] = ("nf4", "fp4"),
        every_n_epochs: int = 1,
    ) -> None:
        if every_n_epochs < 1:
            raise InputError("every_n_epochs of BucketOverlap must be at least 1", given=every_n_epochs)
        self.questions = _questions(bits, granularities, grid, formats)
        self.every_n_epochs = every_n_epochs
        self._logged_epoch: int | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a target that could not be read, before any weight is loaded."""
        if stage != "fit":
            return
        files = WeightFiles(pl_module.target)
        roles = roles_from_config(load_config(pl_module.target))
        parameters = compared_parameters(roles, files.shapes, files.shapes)
        for used in self.questions.formats:
            used.check({name: files.shapes[name] for name, role in parameters.items() if role.quantized})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        finished = trainer.current_epoch + 1
        if finished % self.every_n_epochs == 0:
            self._log(trainer, pl_module, finished)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._logged_epoch != trainer.current_epoch and not trainer.interrupted:
            self._log(trainer, pl_module, trainer.current_epoch)

    def _log(self, trainer: Trainer, pl_module: Any, epoch: int) -> None:
        self._logged_epoch = epoch
        if not trainer.loggers:
            return
        with isolate_rng():
            # gathered by all processes
            exported = pl_module.export.saved_copy(pl_module.model)
            if exported is None or not trainer.is_global_zero:
                return
            found = self._compare(pl_module, exported)
        step = trained_steps(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self._scalars(found), step=step)
            logger.save()
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("analysis/layers", overlap_by_layer(found, self.questions), step)

    def _compare(self, pl_module: Any, exported: PreTrainedModel) -> Comparison:
        after = ModelWeights(exported)
        with WeightFiles(pl_module.target) as files:
            before = CastWeights(files, pl_module.export_dtype)
            parameters = compared_parameters(parameter_roles(exported), before.shapes, after.shapes)
            return compare(before, after, parameters, self.questions)

    def _scalars(self, found: Comparison) -> dict[str, float]:
        """Shares are fractions, of the quantized weights."""
        quantized, change = found.within("quantized"), found.changes["quantized"]
        scalars: dict[str, float | None] = {
            "exact_matches": change.exact_matches,
            "mean_change": change.mean,
            "largest_change": change.largest,
        }
        for granularity in self.questions.granularities:
            for bits in self.questions.bits:
                key = key_for(self.questions.kinds[0], granularity, bits, "quantized")
                scalars[f"overlap/{granularity}/{bits}bit"] = total_overlap(quantized, key).overlap
        for used in self.questions.formats:
            total = total_delivery(quantized, used.name)
            scalars |= {
                f"{used.name}/overlap": total.buckets.overlap,
                f"{used.name}/along_the_update": total.along,
                f"{used.name}/norm_ratio": total.norm_ratio,
                f"{used.name}/cosine": total.cosine,
                f"{used.name}/signal_to_noise": total.signal_to_noise,
            }
        return {f"analysis/{name}": value for name, value in scalars.items() if value is not None}


def _questions(
    bits: Sequence[int], granularities: Sequence[SharedStep], grid: GridKind, names: Sequence[str]
) -> Questions:
    return Questions(bits, granularities, (grid,), formats({name: load_quantizer(name) for name in names}))
