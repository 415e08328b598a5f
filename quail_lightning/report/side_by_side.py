"""Several runs' last figures beside one another, at each precision: rows, terminal tables, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from textwrap import wrap

from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.metrics import label_of
from quail_lightning.evaluation.table import HEADING, cell, sample_sizes, short_names
from quail_lightning.report.finished_run import BASELINES, FinishedRun
from quail_lightning.report.metric_choice import key_measures
from quail_lightning.report.words import QUESTIONS
from quail_lightning.run.results import CSV_COLUMNS, ResultRow, measure_as_json
from quail_lightning.run.tables import fitting_tables, output_console

CAPTION = "± half of the 95 % interval; – undefined; blank: not run"
ANSWERS = {
    "forgotten": "forgotten",
    "survives": "survives",
    "over_forgotten": "over-forgotten",
    "utility": "utility kept",
}
"""Question of a verdict → column."""


def precisions_of(runs: Sequence[FinishedRun]) -> list[str]:
    """Every precision that some run has, in the order of the first that has it."""
    return list(dict.fromkeys(name for run in runs for name in run.precisions))


def names_of(runs: Sequence[FinishedRun]) -> dict[str, FinishedRun]:
    """What tables call each run → the run."""
    short = short_names([str(run.folder) for run in runs])
    named = {run.folder: short[str(run.folder)] for run in runs}
    return {f"run {name}" if name in BASELINES else name: run for run in runs for name in [named[run.folder]]}


def rows_at(runs: Sequence[FinishedRun], precision: str) -> list[ResultRow]:
    """Target and retrained model, as the first run has them, then each run's own row, under the run's name."""
    found = []
    for model in BASELINES:
        rows = [row for run in runs if (row := run.row(model, precision)) is not None]
        found += rows[:1]
    for name, run in names_of(runs).items():
        if (row := run.row("unlearned", precision)) is not None:
            found.append(replace(row, model=name))
    return found


def print_side_by_side(runs: Sequence[FinishedRun]) -> None:
    """Print a table for each precision, and what its names stand for."""
    console = output_console()
    for precision in precisions_of(runs):
        for table in tables_at(runs, precision, console.width):
            console.print(table)
    for name, run in names_of(runs).items():
        method = f", {run.method}" if run.method else ""
        console.print(f"{name}: {run.folder}{method}", markup=False, highlight=False, overflow="fold")


def tables_at(runs: Sequence[FinishedRun], precision: str, width: int) -> list[Table]:
    """The verdicts' answers and the figures of one precision, in tables of at most ``width`` columns."""
    rows = rows_at(runs, precision)
    columns = [*(f"verdict/{question}" for question in ANSWERS), *key_measures(rows)]
    found = list(fitting_tables(partial(_table, runs, rows), columns, precision, width))
    found[-1].caption = CAPTION
    return found


def _table(runs: Sequence[FinishedRun], rows: Sequence[ResultRow], columns: Sequence[str], title: str) -> Table:
    named = names_of(runs)
    table = Table(title=Text(title))
    table.add_column("run", no_wrap=True)
    for column in columns:
        is_answer = column.startswith("verdict/")
        heading = ANSWERS[column.removeprefix("verdict/")] if is_answer else label_of(column).heading
        lines = wrap(heading.replace("→ ", "→\u00a0"), HEADING, break_long_words=False, break_on_hyphens=is_answer)
        table.add_column(
            "\n".join([*lines, *sample_sizes(rows, column)]),
            justify="left" if is_answer else "right",
            no_wrap=True,
        )
    for number, row in enumerate(rows):
        cells = []
        for column in columns:
            if column.startswith("verdict/"):
                answers = named[row.model].results.verdicts.get(row.precision, {}) if row.model in named else {}
                cells.append(Text(answers.get(column.removeprefix("verdict/"), "")))
            else:
                cells.append(Text(cell(row.metrics.get(column), label_of(column).unit)))
        table.add_row(Text(row.model), *cells)
        if row.model in BASELINES and rows[number + 1 :][:1] and rows[number + 1].model not in BASELINES:
            table.add_section()
    return table


def as_csv(runs: Sequence[FinishedRun]) -> str:
    """One line a figure of a model at a precision, with the verdict's answers on the lines of the run.

    Target and retrained model stand once, without a run. A figure without a value has none there, and its reason.
    """
    columns = ["run", "method", *CSV_COLUMNS, *QUESTIONS]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
    writer.writeheader()
    named = names_of(runs)
    for precision in precisions_of(runs):
        for row in rows_at(runs, precision):
            about: dict[str, object] = {"model": row.model, "precision": precision, "epoch": row.epoch}
            if (run := named.get(row.model)) is not None:
                verdict = run.results.verdicts.get(precision, {})
                about |= {"run": str(run.folder), "method": run.method, "model": "unlearned"}
                about |= {question: verdict.get(question, "") for question in QUESTIONS}
            for metric, measure in row.metrics.items():
                writer.writerow(about | {"metric": metric} | measure_as_json(measure))
    return lines.getvalue()
