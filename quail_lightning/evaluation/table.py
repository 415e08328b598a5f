"""Result rows as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from quail_lightning.evaluation.metrics import METRICS
from quail_lightning.results import Measure, ResultRow, Undefined

NARROWEST = 170  # columns: a terminal narrower than this scrolls or wraps rather than cutting figures off


def results_table(rows: Sequence[ResultRow], title: str) -> Table:
    """Rows of model × precision, one column a metric; each figure with half the width of its 95 % interval.

    A metric that no row has gets no column; one that a row lacks is left blank, an undefined one is a dash.
    """
    table = Table(title=title, caption="± half of the 95 % interval; – undefined; blank: not run")
    table.add_column("model", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    shown = [name for name in METRICS if any(name in row.metrics for row in rows)]
    if "privleak" in shown:
        shown.remove("membership_auc")  # the figure that PrivLeak restates; results.json holds both
    for name in shown:
        table.add_column(METRICS[name].heading.replace(" ", "\n"), justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous not in (None, row.model):
            table.add_section()
        previous = row.model
        table.add_row(row.model, row.precision, *(_cell(row.metrics.get(name)) for name in shown))
    return table


def print_results(rows: Sequence[ResultRow], title: str, note: str = "") -> None:
    """Print the table, at its full width also where the output is no terminal."""
    console = Console()
    if console.width < NARROWEST:
        console = Console(width=NARROWEST)
    console.print(results_table(rows, title))
    if note:
        console.print(note)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "–"
    digits = 1 if abs(measure.value) >= 10 else 2
    value = round(measure.value, digits) + 0.0  # + 0.0: no minus sign before a rounded zero
    return f"{value:.{digits}f} ±{(measure.high - measure.low) / 2:.{digits}f}"
