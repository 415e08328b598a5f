"""One run's verdict at a glance: forgetting, utility, and the answers, a line a format."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from quail_lightning.comparison.layer_figure import COLORS, panels
from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import label_of
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.report.forgetting_utility import GREYS, interval_bars
from quail_lightning.report.metric_choice import axes
from quail_lightning.report.words import QUESTIONS, finding
from quail_lightning.run.results import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

GOOD = {"over_forgotten": "no"}  # of every other question it is "yes"
BAD = {"over_forgotten": "yes"}
HEADINGS = {
    "known": "known\nbefore",
    "forgotten": "forgotten\nat 16 bits",
    "survives": "still forgotten\nhere",
    "over_forgotten": "over-\nforgotten",
    "utility": "utility\nkept",
}
"""Question of a verdict → column."""
TONES = {"good": "#cfe8d8", "mixed": "#f4e3bd", "bad": "#f3c9cc"}
LEGIBLE = "0.1"
APART = {"target": -0.16, "retrained": 0.16, "unlearned": 0.0}  # of a line's height, so that markers do not cover
MODELS = {"target": "target: knows the text", "retrained": "retrained: never saw it", "unlearned": "unlearned"}
WIDTHS = (1.0, 1.0, 1.35)
TITLE_CHARACTERS = 110  # a line


def draw_verdict(run: FinishedRun) -> Figure:
    """Three panels that share their lines, one a format: a score of forgetting, one of utility, the answers.

    Answers are words; color says no more than they do. Bars are 95 % intervals.

    Raises:
        InputError: the run wrote no verdict, or has no score of one kind.
    """
    if not run.results.verdicts:
        raise InputError(f"the run {run.folder} wrote no verdict, so there is nothing to draw")
    across, upward = axes([run])
    count = len(run.precisions)
    figure, (forgetting, utility, answers) = panels(3, "", height=1.35 + 0.38 * count)
    found = finding(run.results.verdicts, run.sixteen_bits)
    title = "\n".join(fill(sentence, TITLE_CHARACTERS) for sentence in (found.headline, *found.details))
    figure.set_size_inches(9.0, 1.35 + 0.18 * len(title.splitlines()) + 0.38 * count)
    grid = forgetting.get_gridspec()
    assert grid is not None
    grid.set_width_ratios(WIDTHS)
    for axis, name in ((forgetting, across), (utility, upward)):
        _draw_measure(axis, run, name)
    forgetting.set_yticks(range(count), run.precisions)
    utility.set_yticks(range(count), [])
    for axis in (forgetting, utility, answers):
        axis.set_ylim(count - 0.5, -0.5)
    _draw_answers(answers, run)
    figure.suptitle(title, fontsize=10).set_parse_math(False)
    handles, labels = forgetting.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_measure(axis: Axes, run: FinishedRun, name: str) -> None:
    label = label_of(name)
    named = dict(GREYS, unlearned=(COLORS[0], "o"))
    for model in MODELS:
        color, marker = named[model]
        for line, precision in enumerate(run.precisions):
            row = run.row(model, precision)
            found = None if row is None else row.metrics.get(name)
            if not isinstance(found, Estimate):
                continue
            axis.errorbar(
                [found.value], [line + APART[model]], xerr=interval_bars(found), color=color, marker=marker,
                markersize=6, linestyle="none", elinewidth=1.2, capsize=2.5,
                label=MODELS[model] if line == 0 else None,
            )  # fmt: skip
    better = {"down": "lower: ", "up": "higher: "}.get(label.better, "")
    meant = {"knowledge": "more forgotten", "utility": "more is kept"}.get(str(label.role), "")
    axis.set_title(f"{label.label}\n{better}{meant}", fontsize=9).set_parse_math(False)
    if label.unit == "× 100":
        axis.set_xlim(-4, 104)
    elif label.unit:
        axis.set_xlabel(label.unit, fontsize=8)


def _draw_answers(axis: Axes, run: FinishedRun) -> None:
    asked = [question for question in QUESTIONS if question != "known"]
    axis.set_xlim(-0.5, len(asked) - 0.5)
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_yticks([])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(range(len(asked)), [HEADINGS[question] for question in asked], fontsize=8)
    for line, precision in enumerate(run.precisions):
        for column, question in enumerate(asked):
            if question == "survives" and precision == run.sixteen_bits:
                continue  # what the others are compared with
            answer = run.results.verdicts.get(precision, {}).get(question, "unknown")
            axis.add_patch(_cell(column, line, _tone(question, answer)))
            axis.text(column, line, answer, ha="center", va="center", fontsize=8, color=LEGIBLE)


def _tone(question: str, answer: str) -> str:
    if answer == GOOD.get(question, "yes"):
        return TONES["good"]
    return TONES["bad"] if answer == BAD.get(question, "no") else TONES["mixed"]


def _cell(column: int, line: int, color: str) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, line - 0.42), 0.94, 0.84, facecolor=color, edgecolor="none")
