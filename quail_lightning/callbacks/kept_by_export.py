"""How much of the forgetting in the trained weights the saved copy still has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.survival import delivered_forgetting
from quail_lightning.evaluation.verdict import ENOUGH
from quail_lightning.models.casting import Cast
from quail_lightning.run.results import Estimate, Measure

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

DIGITS = 4


def kept_by_export(
    module: UnlearningModule,
    windows: Tensor,
    batch_size: int | None,
    copy: Mapping[str, Measure],
    target: Mapping[str, Measure],
) -> dict[str, Measure]:
    """``kept_by_export``: (N_copy − N_target) / (N_trained − N_target), N the NLL of the forget windows.

    Nothing where the trained weights have no more bits than the copy, or where the copy is not their cast but the
    target moved the opposite way, an edit of theirs, or an adapter on other weights than the 4-bit ones below it.
    All processes must call.

    Args:
        module: that was trained.
        windows: [n, time] forget windows of the evaluation.
        batch_size: windows a pass; None: by free memory.
        copy: figures of the copy, not quantized.
        target: of the target, likewise.
    """
    export, given = module.export, (copy.get("nll_forget"), target.get("nll_forget"))
    narrower = export.cast.dtype.itemsize < export.trained_dtype.itemsize
    other_base = export.adapter is not None and export.adapter.base == "nf4"
    is_cast = export.task_vector is None and export.edits is None and not other_base
    if not is_cast or not narrower or not module.trained or None in given:
        return {}
    assert module.model is not None
    trained = bootstrap_mean(module.arithmetic.nlls(module.model, windows, batch_size).numpy())
    copied, before = given
    assert copied is not None
    assert before is not None
    return {"kept_by_export": _rounded(delivered_forgetting(copied, before, trained, before))}


def _rounded(kept: Measure) -> Measure:
    """Trained weights of several processes differ from one's by rounding, which no copy of 16 bits shows."""
    if not isinstance(kept, Estimate):
        return kept
    return replace(kept, **{name: round(getattr(kept, name), DIGITS) for name in ("value", "low", "high")})


def told(kept: Measure | None, cast: Cast) -> str:
    """A sentence about it, with the remedy where the cast lost the forgetting; empty where nothing is known."""
    if not isinstance(kept, Estimate):
        return ""
    name = str(cast.dtype).removeprefix("torch.")
    said = (
        f"The saved {name} copy ({cast.rounding} rounding) keeps {100 * kept.value:.0f} % "
        f"({100 * kept.low:.0f} to {100 * kept.high:.0f}) of the forgetting of the weights that were trained."
    )
    if kept.high >= ENOUGH:
        return said
    remedy = "model.export_rounding: stochastic, or " if cast.rounding == "nearest" else ""
    return f"{said} THE CAST ROLLED IT BACK: set {remedy}model.export_dtype: float32."
