"""All of MUSE's figures from a log alone: M1 to M4, every ROUGE mean, every membership AUC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from quail_lightning.evaluation.attacks import REPORTED, attack_aucs
from quail_lightning.evaluation.benchmark_log import RESPONSE_PARTS, BenchmarkLog
from quail_lightning.evaluation.metrics import METRICS
from quail_lightning.evaluation.privleak import privleak_measure
from quail_lightning.evaluation.rouge import ROUGE_SCORES, rouge_scores
from quail_lightning.run.results import Estimate, Measure

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


def measures_of(log: BenchmarkLog) -> dict[str, Measure]:
    """Every measure that a metric can compute again from what the log holds."""
    return {name: measure for metric in METRICS for name, measure in metric.from_log(log).items()}


def score_log(log: BenchmarkLog, auc_retrain: float | Estimate | None) -> LogScores:
    """Score responses and per-text scores as they stand in the log; nothing is cut again.

    Args:
        log: of one model.
        auc_retrain: Min-40 % AUC of the retrained model; None leaves M3 out.
    """
    measures = measures_of(log)
    rouge, notes = {}, []
    for part, metric in RESPONSE_PARTS.items():
        if rows := log.responses.get(metric, ()):
            scores = [rouge_scores(row.truth, row.response) for row in rows]
            rouge[part] = {name: fmean(score[name] for score in scores) for name in ROUGE_SCORES}
        else:
            notes.append(f"{metric}: the log has no {part}; left out")
    aucs: dict[str, float] = {}
    if log.membership is None:
        notes.append("privleak: the log has no privleak; left out")
    else:
        aucs, missing = attack_aucs(log.membership)
        notes += missing
    if auc_retrain is not None and "membership_auc" in measures:
        measures["privleak"] = privleak_measure(measures["membership_auc"], auc_retrain)
    elif log.membership is not None:
        lacking = f"forget and holdout texts with {REPORTED} are not both there"
        notes.append(
            f"privleak: {'no AUC of a retrained model' if 'membership_auc' in measures else lacking}; left out"
        )
    return LogScores(measures, rouge, aucs, tuple(notes))
