"""Say at the end of a fit which deployment formats will lose most of the update that was trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from quail_lightning.callbacks.export import ExportModel
from quail_lightning.callbacks.quantized_evaluation import QuantizedEvaluation
from quail_lightning.comparison import (
    CastWeights,
    Comparison,
    Delivery,
    Questions,
    compare,
    compared_parameters,
    kept_by_weights,
    roles_from_config,
    total_delivery,
    usable_formats,
)
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.run.folder import run_folder
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

ENOUGH = 0.5
"""A format that is predicted to deliver this share of the update, or more, is not spoken of."""
MOST_WEIGHTS = 1_000_000_000
"""Weights times formats that are looked at unasked: a minute or so on four cores."""


class UndeliveredUpdate(Callback):
    """Warns of every precision of the evaluation that will deliver less than half of the update.

    The exported model is compared with the target, file by file, once both lie on disk: no weight is loaded, no
    device used, and it is what will be deployed that is looked at. Precisions whose levels depend on more than the
    weights are left out, and so is a model that was not exported whole. Nothing is said where all is delivered,
    and whatever goes wrong is told and does not end the run.
    """

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called where nothing failed, after the model was saved."""
        if stage != "fit":
            return
        folder = run_folder(trainer)  # asked by all processes
        if not trainer.is_global_zero:
            return
        try:
            _warn(trainer, pl_module, folder)
        except Exception as problem:  # what it would say is no condition of the run, whose results are all written
            rank_zero_info(f"What formats deliver of the update cannot be told: {problem}")


def _warn(trainer: Trainer, module: Any, folder: Path) -> None:
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    exports = [each for each in callbacks if isinstance(each, ExportModel) and each.enabled and each.merge]
    quantizers = {
        name: precision.quantizer
        for each in callbacks
        if isinstance(each, QuantizedEvaluation)
        for name, precision in each.precisions.items()
        if not precision.attacks and not precision.is_plain
    }
    formats = usable_formats(quantizers)
    if not exports or not formats:
        return
    model = folder / exports[0].folder
    questions = Questions((4,), ("tensor",), formats=formats)
    found = _compared(module, model, questions)
    if found is None:
        names = " ".join(used.name for used in formats)
        rank_zero_info(
            "What formats deliver of this update was not looked at, for the model is large: "
            f"quail analyze --reference {module.target} --model {model} --formats {names}"
        )
        return
    for used in formats:
        total = total_delivery(found.within("quantized"), used.name)
        share = kept_by_weights(total)
        if share is not None and share < ENOUGH:
            rank_zero_warn(undelivered(used.name, total, share, remedies(module)))


def _compared(module: Any, model: Path, questions: Questions) -> Comparison | None:
    """The exported model against the target as that is loaded; None where there are too many weights."""
    with WeightFiles(module.target) as target, WeightFiles(str(model)) as after:
        roles = roles_from_config(load_config(module.target))
        parameters = compared_parameters(roles, target.shapes, after.shapes)
        quantized = {name: role for name, role in parameters.items() if role.quantized}
        counts = [math.prod(target.shapes[name]) for name in quantized]
        if sum(counts) * len(questions.formats) > MOST_WEIGHTS:
            return None
        with step("looking at what formats deliver of the update"):
            return compare(CastWeights(target, module.export_dtype), after, quantized, questions)


def undelivered(name: str, total: Delivery, share: float, remedy: str) -> str:
    """The warning's line.

    Args:
        name: of the precision.
        total: of all quantized weights.
        share: of the update that it is predicted to deliver, fraction.
        remedy: what helps.
    """
    hidden = 100 * (1 - (total.seen or 0.0))
    why = "most of it is rounded off"
    if hidden >= 10:
        why = f"{hidden:.0f} % of it lies in weights that are 0 to this format"
    return f"{name} will deliver about {100 * share:.0f} % of this update: {why}. What helps: {remedy}"


def remedies(module: UnlearningModule) -> str:
    """What lets more of an update arrive, of what the run has not done already."""
    found = []
    if module.weight_precision == "bf16-nearest":
        found.append("model.weight_precision: float32 (masters that lose no step)")
    if module.export_cast.rounding == "nearest" and module.export_cast.dtype.itemsize < 4:
        found.append("model.export_rounding: stochastic")
    found.append("a larger model.learning_rate (docs/forgetting.md)")
    return ", ".join([*found, "or quail harden, on the finished model (docs/hardening.md)"])
