"""`quail evaluate --from-log`: a published log scored again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import read_log
from quail_lightning.evaluation.benchmarks import Benchmark
from quail_lightning.evaluation.rescoring import HEADLINES, LogScores, score_log
from quail_lightning.evaluation.table import print_results
from quail_lightning.run.results import Estimate, Measure, ResultRow, measure_as_json, write_results
from quail_lightning.storage.durable import write_json


def report_log(arguments: Any, benchmark: Benchmark) -> None:
    """Print a log's figures, and write them where ``--json`` and ``--out`` say.

    Raises:
        InputError: the log or the retrained model's is damaged, or yields no membership AUC.
    """
    row, note, figures = _scored_log(arguments.from_log, arguments.retrained, benchmark)
    print_results([row], benchmark.name, note)
    if arguments.json is not None:
        write_json(Path(arguments.json), figures)
    if arguments.out is not None:
        write_results(Path(arguments.out), [row], note)


def _scored_log(folder: str, retrained: str | None, benchmark: Benchmark) -> tuple[ResultRow, str, dict[str, Any]]:
    """A log's row, what a reader must know of it, and all figures, fit for JSON."""
    log = read_log(Path(folder))
    auc: float | Estimate | None = benchmark.auc_retrain
    source = f"published constant of {benchmark.name}"
    if retrained is not None:
        measured = score_log(read_log(Path(retrained)), None).measures.get("membership_auc")
        if not isinstance(measured, Estimate):
            raise InputError(f"the log {retrained} yields no membership AUC", given=measured)
        auc, source = measured, f"measured, {retrained}"
    scores = score_log(log, auc)
    notes = list(scores.notes)
    if "privleak" in scores.measures and retrained is None:
        notes.append(
            f"Membership leak is measured against the {source}, which holds for the benchmark's own 7B models only"
        )
    about: dict[str, Any] = {"benchmark": benchmark.name, "from_log": folder}
    if auc is not None:
        about["auc_retrain"] = {"value": getattr(auc, "value", auc), "source": source}
    figures = about | figures_of(scores.measures, scores) | {"notes": notes}
    return ResultRow(folder, "log", scores.measures), "\n".join(notes), figures


def figures_of(measures: Mapping[str, Measure], scores: LogScores | None) -> dict[str, Any]:
    """M1 to M4 as plain numbers, all measures with intervals, ROUGE means and AUCs; what was not run is absent."""
    headline = {
        short: measure.value
        for short, name in HEADLINES.items()
        if isinstance(measure := measures.get(name), Estimate)
    }
    detailed: dict[str, Any] = {"metrics": {name: measure_as_json(measure) for name, measure in measures.items()}}
    if scores is not None:
        detailed |= {"rouge": scores.rouge, "auc": scores.aucs}
    return headline | detailed
