"""Measures as a reader of the page sees them: value, interval, n and what must be known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from quail_lightning.evaluation.metrics import MetricLabel, label_of
from quail_lightning.report.finished_run import BASELINES, FinishedRun
from quail_lightning.report.metric_choice import measured
from quail_lightning.run.results import Measure, ResultRow, Undefined, measure_from_json

SCORE = "× 100"  # unit


class Cell(NamedTuple):
    """One figure.

    Attributes:
        value: a dash where it has none; empty where it was not run.
        interval: of 95 %; empty where there is none.
        n: of how many records; empty likewise.
        remark: why it has no value, or means little.
    """

    value: str = ""
    interval: str = ""
    n: str = ""
    remark: str = ""


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        heading: of the row.
        cells: one a column.
    """

    heading: str
    cells: Sequence[Cell]

    @property
    def n(self) -> str:
        """Of how many records the row's figures are."""
        sizes = sorted({int(cell.n) for cell in self.cells if cell.n})
        return "" if not sizes else str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"


class Grid(NamedTuple):
    """A table.

    Attributes:
        caption: what it shows.
        columns: headings.
        lines: rows.
    """

    caption: str
    columns: Sequence[str]
    lines: Sequence[Line]


def shown(measure: Measure | None, unit: str = "", percent: bool = False) -> Cell:
    """A measure as a cell.

    Args:
        measure: None where it was not run.
        unit: its label's; a small p-value is shown by its power of ten.
        percent: a fraction, shown × 100 with its sign.
    """
    if measure is None:
        return Cell()
    if isinstance(measure, Undefined):
        return Cell("–", remark=measure.reason)
    if percent:
        value, low, high = (f"{100 * each + 0.0:.0f}" for each in (measure.value, measure.low, measure.high))
        return Cell(f"{_minus(value)} %", f"[{_minus(low)}, {_minus(high)}]", str(measure.n), measure.caution)
    if unit == "p-value" and measure.value < 0.01:
        value, low, high = (f"{each:.0e}" for each in (measure.value, measure.low, measure.high))
    else:
        digits = 1 if unit == SCORE or max(map(abs, (measure.value, measure.low, measure.high))) >= 10 else 2
        value, low, high = (
            f"{round(each, digits) + 0.0:.{digits}f}" for each in (measure.value, measure.low, measure.high)
        )
    return Cell(_minus(value), f"[{_minus(low)}, {_minus(high)}]", str(measure.n), measure.caution)


def baselines_last(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows with target and retrained model behind the others: a phone shows the first columns."""
    return sorted(rows, key=lambda row: row.model in BASELINES)


def figures_at(run: FinishedRun, precision: str) -> Grid:
    """Every measure of unlearned model, target and retrained model at one precision, but for what came back."""
    rows = baselines_last([row for row in run.results.last if row.precision == precision])
    lines = [
        Line(_heading(label), [shown(row.metrics.get(name), label.unit) for row in rows])
        for name, label in measured(rows).items()
        if label.table not in ("survival", "files")
    ]
    return Grid(f"Figures at {precision}, with 95 % intervals", [row.model for row in rows], lines)


def came_back(run: FinishedRun) -> Grid | None:
    """What of the forgotten is there again in each format, and the share of the forgetting that it keeps.

    A recovery stands there capped where it could be, see ``evaluation.survival``. None where no format was tested.
    """
    formats = [name for name in run.precisions if name != run.sixteen_bits]
    rows = [row for name in formats if (row := run.row("unlearned", name)) is not None]
    known = measured(rows)
    names = [name for name, label in known.items() if label.table == "survival" and f"{name}_capped" not in known]
    if not rows or not names:
        return None
    lines = [
        Line(f"{row.precision}: {_plain(label_of(name))}", [shown(row.metrics[name], percent=True)])
        for row in rows
        for name in names
        if name in row.metrics
    ]
    return Grid("What came back in each format, with 95 % intervals", ["share"], lines)


def beside_published(published: Mapping[str, Any]) -> Grid:
    """Published figures, the run's own, and the difference."""
    lines = []
    for figure in published["figures"]:
        label = label_of(str(figure["metric"]))
        here = shown(measure_from_json(figure["here"]), label.unit) if "here" in figure else Cell()
        difference = figure.get("difference")
        cells = [Cell(_minus(f"{figure['published']:.1f}")), here]
        cells.append(Cell("" if difference is None else _minus(f"{difference:+.1f}")))
        lines.append(Line(f"{figure['model']}, {figure['precision']}: {label.heading}", cells))
    return Grid("Published figures and this run's", ["published", "here", "difference"], lines)


def beside_one_another(
    rows: Sequence[ResultRow], names: Sequence[str], answers: Mapping[str, Sequence[str]], precision: str
) -> Grid:
    """Runs at one precision, a column each.

    Args:
        rows: named after their runs.
        names: of the measures that are shown.
        answers: question of the verdict → the answer of each row; empty for a baseline.
        precision: of them all.
    """
    lines = [Line(question, [Cell(answer) for answer in found]) for question, found in answers.items()]
    for name in names:
        label = label_of(name)
        lines.append(Line(_heading(label), [shown(row.metrics.get(name), label.unit) for row in rows]))
    return Grid(f"Runs at {precision}, with 95 % intervals", [row.model for row in rows], lines)


def _heading(label: MetricLabel) -> str:
    unit = label.unit.replace(" ", "\u00a0")
    return f"{label.heading}, {unit}" if unit else label.heading


def _plain(label: MetricLabel) -> str:
    """Of a share that came back the name of what; of the one that was kept its own."""
    return {"Kept": "forgetting kept (NLL)"}.get(label.label, label.label[0].lower() + label.label[1:])


def _minus(number: str) -> str:
    return "0" + number[2:] if number.startswith("-0") and not float(number) else number.replace("-", "−")
