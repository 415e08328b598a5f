"""`quail evaluate --from-log`: a published log scored again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.evaluation.answer_losses import LOG_RATIO
from quail_lightning.evaluation.benchmark_log import read_log
from quail_lightning.evaluation.benchmarks import Benchmark
from quail_lightning.evaluation.rescoring import HEADLINES, LogScores, measures_of, score_log
from quail_lightning.evaluation.table import print_results
from quail_lightning.evaluation.tofu import derived_measures, too_few
from quail_lightning.evaluation.tofu_log import aggregates, is_published_log, read_published_log
from quail_lightning.run.results import Estimate, Measure, ResultRow, measure_as_json, write_results
from quail_lightning.storage.durable import write_json


def report_log(arguments: Any, benchmark: Benchmark) -> None:
    """Print a log's figures, and write them where ``--json`` and ``--out`` say.

    Raises:
        InputError: the log or the retrained model's is damaged or another benchmark's, or lacks what is
            asked of it.
    """
    if arguments.retrained is not None and arguments.retrained_log is not None:
        raise InputError("beside --from-log, --retrained and --retrained-log both name the retrained model's log")
    retrained = arguments.retrained_log or arguments.retrained
    if benchmark.log != "tofu" and is_published_log(Path(arguments.from_log)):
        raise InputError(
            f"{arguments.from_log} is no log folder of {benchmark.name}",
            allowed="a folder that holds knowmem_f/log.json; or, with --benchmark tofu, a log of TOFU",
        )
    read = _scored_answers if benchmark.log == "tofu" else _scored_log
    row, note, figures = read(arguments.from_log, retrained, benchmark)
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


def _scored_answers(
    path: str, retrained: str | None, benchmark: Benchmark
) -> tuple[ResultRow, str, dict[str, Any]]:
    """Likewise of a log of TOFU; its aggregates stand under the benchmark's own names."""
    measures, notes = _answer_measures(path), []
    others: dict[str, Measure] | None = None
    if retrained is None:
        notes.append("forget quality: no log of a retrained model (--retrained-log); left out")
    else:
        others = _answer_measures(retrained)
        sizes = [_forget_records(each, name) for each, name in ((measures, path), (others, retrained))]
        if problem := too_few(*sizes):
            raise InputError(problem, given=f"{path} and {retrained}")
        if sizes[0] != sizes[1]:
            notes.append(
                f"forget quality compares {sizes[0]} records with {sizes[1]}, so not of the same questions"
            )
    measures |= derived_measures(measures, others)
    about: dict[str, Any] = {"benchmark": benchmark.name, "from_log": path}
    about |= {} if retrained is None else {"retrained_log": retrained}
    found = aggregates(measures)
    figures = about | found | {"aggregates": found} | figures_of(measures, None) | {"notes": notes}
    return ResultRow(path, "log", measures), "\n".join(notes), figures


def _answer_measures(path: str) -> dict[str, Measure]:
    """Of a published log, or of one that an evaluation here wrote."""
    place = Path(path)
    measures = measures_of(read_published_log(place) if is_published_log(place) else read_log(place))
    if LOG_RATIO not in measures:
        raise InputError(f"{path} holds no losses of TOFU's answers", given=", ".join(measures) or None)
    return measures


def _forget_records(measures: Mapping[str, Measure], path: str) -> int:
    found = measures[LOG_RATIO]
    if not isinstance(found, Estimate):
        raise InputError(f"{path} yields no truth ratios: {found.reason}")
    return found.n


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
