"""From the figures of several models at several precisions to what survived, and to a verdict for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from quail_lightning.evaluation.privleak import privleak_measure
from quail_lightning.evaluation.survival import survival_measures
from quail_lightning.evaluation.tofu import derived_measures
from quail_lightning.evaluation.verdict import Metrics, Models, Verdict, verdict
from quail_lightning.run.results import Estimate, Measure

ByPrecision = Mapping[str, Metrics]


def conclude(
    unlearned: Mapping[str, dict[str, Measure]],
    target: ByPrecision,
    retrained: ByPrecision,
    sixteen_bits: str,
    attacked: Collection[str] = (),
) -> dict[str, Verdict]:
    """Add the survival measures to the unlearned model's figures, in place, and evaluate every precision.

    Args:
        unlearned: precision → metric name → measure; the 16-bit one among them.
        target: likewise, of the target, over the same records.
        retrained: of the retrained model; empty where there is none, and precisions may be missing.
        sixteen_bits: name of the precision that the others are compared with.
        attacked: precisions that come after an attack, through which target and retrained model went, too.

    Returns:
        precision → verdict.
    """
    whole = Models(target.get(sixteen_bits), retrained.get(sixteen_bits), unlearned[sixteen_bits])
    found = {}
    for precision, measures in unlearned.items():
        at_format = Models(target.get(precision), retrained.get(precision), measures)
        is_sixteen_bits = precision == sixteen_bits
        if not is_sixteen_bits and whole.target is not None and at_format.target is not None:
            measures |= survival_measures(
                measures,
                whole.unlearned,
                at_format.target,
                whole.target,
                at_format.retrained,
                whole.retrained,
                attacked=precision in attacked,
            )
        found[precision] = verdict(whole, at_format, is_sixteen_bits)
    return found


def add_derived(measured: Mapping[str, dict[str, Measure]], retrained: ByPrecision) -> None:
    """Add TOFU's model utility and, beside the equally precise retrained model, its forget quality, in place."""
    for precision, measures in measured.items():
        measures |= derived_measures(measures, retrained.get(precision))


def add_privleak(measured: Mapping[str, dict[str, Measure]], auc_retrain: float | Estimate | None) -> None:
    """Restate every membership AUC against the retrained model's, in place; None leaves PrivLeak out."""
    for measures in measured.values():
        if auc_retrain is not None and "membership_auc" in measures:
            measures["privleak"] = privleak_measure(measures["membership_auc"], auc_retrain)
