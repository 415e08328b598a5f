"""Forgetting against utility: a panel a precision, a point a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quail_lightning.comparison.layer_figure import COLORS, MARKERS, panels
from quail_lightning.evaluation.metrics import label_of
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.report.metric_choice import axes
from quail_lightning.report.side_by_side import names_of, precisions_of, rows_at
from quail_lightning.run.results import Estimate, ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREYS = {"target": ("0.1", "P"), "retrained": ("0.45", "X")}
HOLLOW: dict[str, Any] = {"markerfacecolor": "none", "zorder": 4}  # of baselines: a point below them is seen
WHOLE = "× 100"  # unit of a score that goes from 0 to 100


def draw_forgetting_utility(
    runs: Sequence[FinishedRun], precisions: Sequence[str] | None = None, captioned: bool = True
) -> Figure:
    """A panel for each precision: forgetting across, utility upward, bars are 95 % intervals.

    Scores are drawn from 0 to 100. Of other measures the panels share a range that the figures give, and the
    caption says that it does not start at 0.

    Args:
        runs: of one corpus.
        precisions: that are drawn; None for all.
        captioned: say below how it is read; a page says so itself.

    Raises:
        InputError: the runs share no measure of forgetting or none of utility.
    """
    across, upward = axes(runs)
    names = list(precisions_of(runs) if precisions is None else precisions)
    figure, drawn = panels(len(names), "forgetting and utility", height=4.0)
    styles = dict(zip(names_of(runs), zip(COLORS * 9, MARKERS * 9, strict=False), strict=False)) | GREYS
    shown: dict[str, Any] = {}
    for axis, precision in zip(drawn, names, strict=True):
        for row in rows_at(runs, precision):
            if (points := _points(axis, row, across, upward, *styles[row.model])) is not None:
                shown.setdefault(row.model, points)
        axis.set_title(precision, fontsize=10).set_parse_math(False)
        axis.set_xlabel(_axis_label(across), fontsize=8)
    drawn[0].set_ylabel(_axis_label(upward), fontsize=8)
    _limit(drawn, across, upward)
    # matplotlib leaves out labels that begin with an underscore
    labels = [f" {name}" if name.startswith("_") else name for name in shown]
    legend = figure.legend(list(shown.values()), labels, loc="outside right center", fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if captioned:
        figure.supxlabel(caption(runs), fontsize=7, color="0.25")
    return figure


def caption(runs: Sequence[FinishedRun]) -> str:
    """How the figure is read, and where its axes begin."""
    across, upward = (label_of(name) for name in axes(runs))
    side = {"down": "left", "up": "right"}.get(across.better)
    reads = f"Further {side}: more forgotten; " if side else ""
    height = "higher" if upward.better != "down" else "lower"
    cut = [label.label for label in (across, upward) if label.unit != WHOLE]
    starts = f" Axes of {' and '.join(cut)} need not start at 0." if cut else ""
    return f"{reads}{height}: more is kept. Bars: 95 % intervals.{starts}"


def _points(axis: Axes, row: ResultRow, across: str, upward: str, color: str, marker: str) -> Any:
    x, y = row.metrics.get(across), row.metrics.get(upward)
    if not (isinstance(x, Estimate) and isinstance(y, Estimate)):
        return None
    return axis.errorbar(
        [x.value], [y.value], xerr=interval_bars(x), yerr=interval_bars(y),
        color=color, marker=marker, markersize=6, linestyle="none", elinewidth=1, capsize=2.5,
        **(HOLLOW if row.model in GREYS else {}),
    )  # fmt: skip


def interval_bars(measure: Estimate) -> list[list[float]]:
    """[2, 1] below and above; a percentile interval need not hold its figure."""
    return [[max(0.0, measure.value - measure.low)], [max(0.0, measure.high - measure.value)]]


def _limit(drawn: Sequence[Axes], across: str, upward: str) -> None:
    for name, limits, limit in ((across, "get_xlim", "set_xlim"), (upward, "get_ylim", "set_ylim")):
        if label_of(name).unit == WHOLE:
            low, high = -3.0, 103.0  # so that a point at the end is not cut
        else:
            ranges = [getattr(axis, limits)() for axis in drawn]
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        for axis in drawn:
            getattr(axis, limit)(low, high)


def _axis_label(name: str) -> str:
    label = label_of(name)
    better = {"down": "lower: more forgotten", "up": "higher is better"}.get(label.better, "")
    if label.role == "utility":
        better = {"down": "lower is better", "up": "higher is better"}.get(label.better, "")
    elif label.better == "up":
        better = "higher: more forgotten"
    words = [f"{label.label}, {label.unit}" if label.unit else label.label, f"({better})" if better else ""]
    return "\n".join(filter(None, words))
