"""What saved models' figures say beside one another: membership against the retrained model, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quail_lightning.evaluation.benchmarks import Benchmark
from quail_lightning.evaluation.conclusions import add_privleak, conclude
from quail_lightning.evaluation.lineage import Plan
from quail_lightning.evaluation.precision import attacked_names
from quail_lightning.evaluation.privleak import published_auc_retrain
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.run.results import Estimate, Measure

Figures = Mapping[str, Mapping[str, dict[str, Measure]]]
"""Model → precision → measures."""


def restate_membership(
    figures: Figures, plan: Plan, retrained: str | None, protocol: str, benchmark: Benchmark
) -> dict[str, dict[str, float]]:
    """Restate every membership AUC; model → the AUC that it is held against, for the record."""
    measured = figures.get(retrained or "", {}).get(plan.sixteen_bits.name)
    against = {}
    for model, by_precision in figures.items():
        auc = _auc_retrain(model, benchmark, protocol, measured)
        add_privleak(by_precision, auc)
        value = auc.value if isinstance(auc, Estimate) else auc
        against[model] = {} if value is None else {"auc_retrain": value}
    return against


def verdicts_of(figures: Figures, plan: Plan, retrained: str | None) -> dict[tuple[str, str], Verdict]:
    """(model, precision) → verdict, of every model whose target is there; adds the survival measures."""
    found: dict[tuple[str, str], Verdict] = {}
    sixteen = plan.sixteen_bits.name
    for model, target in plan.targets.items():
        unlearned = figures[model]
        if sixteen not in unlearned:  # a deployed one
            if model not in plan.origins:
                continue
            unlearned = {sixteen: dict(figures[plan.origins[model]][sixteen])} | dict(unlearned)
        attacked = attacked_names(plan.precisions[model])
        said = conclude(unlearned, figures[target], figures.get(retrained or "", {}), sixteen, attacked)
        found |= {(model, precision): said[precision] for precision in figures[model]}
    return found


def _auc_retrain(
    model: str, benchmark: Benchmark, protocol: str, retrained: Mapping[str, Measure] | None
) -> float | Estimate | None:
    """The retrained model's AUC: measured; or published, for MUSE's own models or by the published protocol."""
    if retrained is not None:
        area = retrained.get("membership_auc")
        return area if isinstance(area, Estimate) else None
    if protocol == "published":
        return benchmark.auc_retrain
    target = (read_provenance(Path(model)) or {}).get("target", model)
    return published_auc_retrain(target)
