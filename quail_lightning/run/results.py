"""What an evaluation yields: estimates with their intervals, in rows of model × precision."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from quail_lightning.errors import InputError
from quail_lightning.run.masking import masked
from quail_lightning.storage.durable import replace_text
from quail_lightning.storage.vouched import read_vouched, write_vouched

Read = TypeVar("Read")
CSV_COLUMNS = ("model", "epoch", "precision", "metric", "value", "n", "low", "high", "reason", "caution")


@dataclass(frozen=True)
class Estimate:
    """A figure with its size of sample and its 95 % interval.

    Attributes:
        value: the figure, in the metric's own unit (scores are × 100).
        n: how many records it rests on.
        low, high: bounds of the 95 % percentile bootstrap interval.
        scores: the per-record values, in the records' order, for paired comparisons; empty where the
            figure is not a mean over records (an AUC).
        caution: why the figure means little here; empty where it does not.
    """

    value: float
    n: int
    low: float
    high: float
    scores: tuple[float, ...] = field(default=(), repr=False, compare=False)
    caution: str = ""


@dataclass(frozen=True)
class Undefined:
    """A figure that has no value here, and why. Never written as 0."""

    reason: str


Measure = Estimate | Undefined


@dataclass(frozen=True)
class ResultRow:
    """The metrics of one model at one precision.

    Attributes:
        model: ``target``, ``retrained`` or ``unlearned``.
        precision: stem of the quantizer's config file (``bf16``, ``nf4``, ...).
        metrics: metric name → measure; a metric that was not run is absent.
        epoch: finished epochs of unlearning; None for ``target`` and ``retrained``.
    """

    model: str
    precision: str
    metrics: Mapping[str, Measure]
    epoch: int | None = None


class Conclusion(Protocol):
    """A verdict; see ``evaluation.verdict``."""

    def as_json(self) -> dict[str, str]:
        """Field → value."""
        ...


def write_results(
    folder: Path,
    rows: Sequence[ResultRow],
    note: str = "",
    arithmetic: Mapping[str, str] | None = None,
    verdicts: Mapping[str, Conclusion] | None = None,
    published: Mapping[str, object] | None = None,
) -> None:
    """Write ``results.json`` and ``results.csv`` (one line a figure), each whole or not at all.

    Args:
        folder: the run's folder; its parents are made.
        rows: all rows so far.
        note: where the records depart from the benchmark's.
        arithmetic: stage (``training``, ``evaluation``) → in what it was computed.
        verdicts: precision → what the last rows of the unlearned model say.
        published: the last rows beside published ones, fit for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, object] = {"note": note}
    if arithmetic is not None:
        content["arithmetic"] = dict(arithmetic)
    if verdicts is not None:
        content["verdicts"] = {precision: found.as_json() for precision, found in verdicts.items()}
    if published is not None:
        content["published"] = dict(published)
    content["rows"] = [_as_json(row) for row in rows]
    replace_text(folder / "results.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    lines = io.StringIO()
    writer = csv.DictWriter(lines, CSV_COLUMNS, restval="")
    writer.writeheader()
    for row in rows:
        for metric, measure in row.metrics.items():
            named = {"model": row.model, "epoch": row.epoch, "precision": row.precision, "metric": metric}
            writer.writerow(named | measure_as_json(measure))
    replace_text(folder / "results.csv", lines.getvalue())


def read_results(folder: Path) -> list[ResultRow]:
    """The rows of ``results.json``, without the per-record scores.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return _read(folder, lambda content: [_from_json(row) for row in content["rows"]])


def read_verdicts(folder: Path) -> dict[str, dict[str, str]]:
    """Precision → verdict, of ``results.json``; empty where it holds none.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    return _read(
        folder,
        lambda content: {name: {"text": "", **each} for name, each in content.get("verdicts", {}).items()},
    )


@dataclass(frozen=True)
class WholeResults:
    """All that ``results.json`` holds.

    Attributes:
        rows: of every model, epoch and precision, without the per-record scores.
        verdicts: precision → field → answer, and ``text``; empty where there are none.
        note: where the records depart from the benchmark's, and the like.
        arithmetic: stage → in what it was computed.
        published: the last rows beside published ones, see ``evaluation.published``; None where there are none.
    """

    rows: list[ResultRow]
    verdicts: Mapping[str, Mapping[str, str]]
    note: str
    arithmetic: Mapping[str, str]
    published: Mapping[str, Any] | None

    @property
    def last(self) -> list[ResultRow]:
        """Target, retrained model, and the unlearned model as its last evaluation found it."""
        epoch = max((row.epoch or 0 for row in self.rows if row.model == "unlearned"), default=0)
        return [row for row in self.rows if row.model != "unlearned" or (row.epoch or 0) == epoch]


def read_whole(folder: Path) -> WholeResults:
    """``results.json`` of a run.

    Raises:
        InputError: there is none, or it is damaged.
    """
    rows, verdicts = read_results(folder), read_verdicts(folder)

    def rest(content: Any) -> WholeResults:
        note, arithmetic = content.get("note", ""), dict(content.get("arithmetic", {}))
        published = content.get("published")
        told = [note, *arithmetic.values(), *(text for each in verdicts.values() for text in each.values())]
        if not all(isinstance(text, str) for text in told):
            raise TypeError("what should be text is not")
        if published is not None:
            figures = [float(figure["published"]) for figure in published["figures"]]
            if not all(map(math.isfinite, figures)) or not isinstance(published["source"], str):
                raise ValueError("a published figure is no finite number")
            for figure in published["figures"]:
                if "here" in figure:
                    measure_from_json(figure["here"])
        return WholeResults(rows, verdicts, note, arithmetic, published)

    return _read(folder, rest)


def _read(folder: Path, of: Callable[[Any], Read]) -> Read:
    path = folder / "results.json"
    try:
        return of(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise InputError(f"{path} cannot be read ({what})") from error


def write_scores(folder: Path, rows: Sequence[ResultRow], settings: Mapping[str, object]) -> None:
    """Write ``scores.json``: the rows with their per-record scores, from which a resumed run goes on evaluating.

    Args:
        folder: the run's folder.
        rows: all rows so far.
        settings: how they were evaluated, fit for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"settings": masked(settings)}
    content["rows"] = [_as_json(row) | {"scores": _scores(row)} for row in rows]
    write_vouched(folder / "scores.json", content)


def read_scores(folder: Path, settings: Mapping[str, object]) -> list[ResultRow]:
    """The rows of ``scores.json``, exactly as they were; none where there is no such file, or a damaged one.

    Raises:
        InputError: they were evaluated with other settings, so that the rows to come could not stand beside them.
    """
    content = read_vouched(folder / "scores.json", "what was evaluated before is evaluated again, or left out")
    if content is None:
        return []
    wanted = json.loads(json.dumps(masked(settings)))
    if content["settings"] != wanted:
        differing = [name for name in wanted if content["settings"].get(name) != wanted[name]]
        raise InputError(
            f"the rows of {folder} were evaluated with other settings",
            given={name: wanted[name] for name in differing},
            remedy="Resume with the same evaluation section",
        )
    return [_from_json(row) for row in content["rows"]]


def _as_json(row: ResultRow) -> dict[str, object]:
    metrics = {name: measure_as_json(measure) for name, measure in row.metrics.items()}
    return {"model": row.model, "epoch": row.epoch, "precision": row.precision, "metrics": metrics}


def _scores(row: ResultRow) -> dict[str, tuple[float, ...]]:
    return {name: m.scores for name, m in row.metrics.items() if isinstance(m, Estimate) and m.scores}


def _from_json(row: Mapping[str, Any]) -> ResultRow:
    scores = row.get("scores", {})
    metrics = {
        name: measure_from_json({**measure, "scores": scores.get(name, ())})
        for name, measure in row["metrics"].items()
    }
    return ResultRow(row["model"], row["precision"], metrics, row["epoch"])


def measure_from_json(row: Mapping[str, Any]) -> Measure:
    """A measure, with the ``scores`` that the row has.

    Raises:
        KeyError, TypeError, ValueError: the row is none, or holds something that is no finite number.
    """
    if "reason" in row:
        return Undefined(str(row["reason"]))
    figures, scores = [row[name] for name in ("value", "low", "high")], list(row.get("scores", ()))
    for number in (*figures, *scores):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError("a figure is no finite number")
    if isinstance(row["n"], bool) or not isinstance(row["n"], int):
        raise TypeError("n is no number of records")
    value, low, high = figures
    return Estimate(value, row["n"], low, high, tuple(scores), str(row.get("caution", "")))


def scored_json(measure: Measure) -> dict[str, object]:
    """A measure with its per-record scores, as ``measure_from_json`` reads it."""
    return measure_as_json(measure) | ({"scores": measure.scores} if isinstance(measure, Estimate) else {})


def measure_as_json(measure: Measure) -> dict[str, object]:
    """A measure without its per-record scores."""
    if isinstance(measure, Undefined):
        return {"reason": measure.reason}
    figures = {"value": measure.value, "n": measure.n, "low": measure.low, "high": measure.high}
    return figures | ({"caution": measure.caution} if measure.caution else {})
