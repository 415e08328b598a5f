"""What target, retrained and unlearned model said to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, holds_log, read_log
from quail_lightning.evaluation.evidence import FOLDER
from quail_lightning.evaluation.metrics import label_of
from quail_lightning.report.finished_run import BASELINES, FinishedRun

SHOWN = 5  # prompts of a kind


@dataclass(frozen=True)
class Asked:
    """One prompt and all answers to it.

    Attributes:
        prompt: empty where the log does not hold it.
        truth: what should be said.
        said: model and precision → response.
    """

    prompt: str
    truth: str
    said: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """Prompts of one kind.

    Attributes:
        title: what they measure.
        total: how many there are.
        shown: the first of them.
    """

    title: str
    total: int
    shown: tuple[Asked, ...]


def side_by_side(run: FinishedRun) -> list[Kind]:
    """The first prompts of each kind: the baselines' answers at 16 bits, the unlearned model's at every precision.

    Raises:
        InputError: the run keeps no responses, or a log is damaged.
    """
    wanted = [(model, run.sixteen_bits) for model in BASELINES]
    wanted += [("unlearned", precision) for precision in run.precisions]
    places = {f"{model} {precision}": run.folder / FOLDER / f"{model}-{precision}" for model, precision in wanted}
    logs = {name: read_log(place) for name, place in places.items() if holds_log(place)}
    if not any(name.startswith("unlearned") for name in logs):
        raise InputError(
            f"the run {run.folder} keeps no responses: they were removed, or none were asked for",
            given="--responses folded",
            remedy="Leave it at none",
        )
    kinds: dict[str, Kind] = {}
    for log in logs.values():
        for name, rows in log.responses.items():
            kinds.setdefault(name, Kind(label_of(name).label, len(rows), _first(name, logs)))
    return list(kinds.values())


def _first(kind: str, logs: Mapping[str, BenchmarkLog]) -> tuple[Asked, ...]:
    answered = {name: log.responses[kind] for name, log in logs.items() if kind in log.responses}
    truths = next(iter(answered.values()))
    # of other records, in a folder that was copied together, nothing stands side by side
    wanted = [row.truth for row in truths]
    same = {name: rows for name, rows in answered.items() if [row.truth for row in rows] == wanted}
    return tuple(
        Asked(truth.prompt, truth.truth, {name: rows[number].response for name, rows in same.items()})
        for number, truth in enumerate(truths[:SHOWN])
    )
