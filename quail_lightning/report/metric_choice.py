"""Which of the measured figures a comparison shows."""

from __future__ import annotations

from collections.abc import Sequence

from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import MetricLabel, label_of, labels
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.run.results import Estimate, ResultRow, Undefined


def measured(rows: Sequence[ResultRow]) -> dict[str, MetricLabel]:
    """Every measure of some rows, in the order of tables."""
    found = dict.fromkeys(name for row in rows for name in row.metrics)
    return {name: label_of(name) for name in dict.fromkeys([*labels(found), *found]) if name in found}


def key_measures(rows: Sequence[ResultRow]) -> list[str]:
    """What a verdict rests on, PrivLeak, and what came back.

    Of PrivLeak and the membership AUC that it restates one is chosen: PrivLeak where some row has it without
    a caution.
    """
    known = measured(rows)
    leaks = [row.metrics["privleak"] for row in rows if "privleak" in row.metrics]
    tells = any(isinstance(leak, Estimate) and not leak.caution for leak in leaks)
    left_out = "membership_auc" if tells else "privleak"
    return [
        name
        for name, label in known.items()
        if name != left_out
        and (name == "privleak" or label.role is not None or label.table == "survival")
        and f"{name}_capped" not in known
    ]


def axes(runs: Sequence[FinishedRun]) -> tuple[str, str]:
    """The measure of forgetting and that of utility that a figure shows: the first that every run has.

    Scores, of which less is known the lower they are and the more is kept the higher, come before likelihoods.

    Raises:
        InputError: there is none.
    """
    rows = [row for run in runs for row in run.results.last if row.model == "unlearned"]
    shared = [name for name in measured(rows) if all(isinstance(row.metrics.get(name), Estimate) for row in rows)]
    found = []
    for role, better in (("knowledge", "down"), ("utility", "up")):
        bearing = [name for name in shared if label_of(name).role == role]
        chosen = next((name for name in bearing if label_of(name).better == better), next(iter(bearing), None))
        if chosen is None:
            raise InputError(
                f"no measure of {role} has a value in every run at every precision, so there is nothing to draw",
                remedy="Leave out --figure, or name runs that were evaluated alike",
            )
        found.append(chosen)
    return found[0], found[1]


def gaps(rows: Sequence[ResultRow]) -> list[str]:
    """Cautions, and why figures have no value: one line a measure and reason."""
    found: dict[str, None] = {}
    for row in rows:
        for name, measure in row.metrics.items():
            why = measure.reason if isinstance(measure, Undefined) else measure.caution
            if why:
                found[f"{label_of(name).label}: {why}"] = None
    return list(found)
