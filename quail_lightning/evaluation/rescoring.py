"""All of MUSE's figures from a log alone: M1 to M4, every ROUGE mean, every membership AUC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from quail_lightning.evaluation.attacks import REPORTED, attack_aucs
from quail_lightning.evaluation.benchmark_log import RESPONSE_PARTS, BenchmarkLog
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.privleak import membership_auc, privleak_measure
from quail_lightning.evaluation.rouge import ROUGE_SCORES, rouge_scores
from quail_lightning.results import Measure

HEADLINES = {
    "M1": "verbmem_forget",
    "M2": "knowmem_forget",
    "M3": "privleak",
    "M4": "knowmem_retain",
}
"""MUSE's name of a metric → ours."""


@dataclass(frozen=True)
class LogScores:
    """What a log yields; what it holds no data for is absent.

    Attributes:
        measures: metric name → measure, × 100 with interval (``membership_auc`` is a fraction).
        rouge: part (``verbmem_f``, ...) → ROUGE name → mean, fraction, as in MUSE's ``agg.json``.
        aucs: as in MUSE's ``auc.json``.
        notes: what was left out, and why.
    """

    measures: Mapping[str, Measure]
    rouge: Mapping[str, Mapping[str, float]]
    aucs: Mapping[str, float]
    notes: tuple[str, ...]


def score_log(log: BenchmarkLog, auc_retrain: float | None) -> LogScores:
    """Score responses and per-text scores as they stand in the log; nothing is cut again.

    Args:
        log: of one model.
        auc_retrain: Min-40 % AUC of the retrained model; None leaves M3 out.
    """
    measures: dict[str, Measure] = {}
    rouge, notes = {}, []
    for part, metric in RESPONSE_PARTS.items():
        rows = log.responses.get(metric, ())
        if not rows:
            notes.append(f"{metric}: the log has no {part}; left out")
            continue
        scores = [rouge_scores(row.truth, row.response) for row in rows]
        rouge[part] = {name: fmean(score[name] for score in scores) for name in ROUGE_SCORES}
        measures[metric] = bootstrap_mean([100 * score["rougeL"] for score in scores])
    aucs: dict[str, float] = {}
    if log.membership is None:
        notes.append("privleak: the log has no privleak; left out")
    else:
        aucs, missing = attack_aucs(log.membership)
        notes += missing
        measures |= _reported(log, aucs, auc_retrain, notes)
    return LogScores(measures, rouge, aucs, tuple(notes))


def _reported(
    log: BenchmarkLog, aucs: Mapping[str, float], auc_retrain: float | None, notes: list[str]
) -> dict[str, Measure]:
    """M3 and the AUC that it restates."""
    if f"forget_holdout_{REPORTED}" not in aucs:
        notes.append(f"privleak: forget and holdout texts with {REPORTED} are not both there; left out")
        return {}
    assert log.membership is not None
    forget, holdout = ([row[REPORTED] for row in log.membership[side]] for side in ("forget", "holdout"))
    area = membership_auc(forget, holdout)
    if auc_retrain is None:
        notes.append("privleak: no AUC of a retrained model; left out")
        return {"membership_auc": area}
    return {"membership_auc": area, "privleak": privleak_measure(area, auc_retrain)}
