"""A run's figures beside the published ones, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.metrics import label_of
from quail_lightning.evaluation.published import Compared, PublishedRow
from quail_lightning.evaluation.table import cell
from quail_lightning.run.tables import output_console


def comparison_table(name: str, compared: Sequence[Compared]) -> Table:
    """One line a figure: published, here and the difference, in sections of model and precision."""
    table = Table(
        title=Text(f"beside {name}"), caption="difference: here − published; blank: not run; – undefined"
    )
    for heading in ("model", "precision", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("published", "here", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (model, precision), group in groupby(compared, lambda each: (each.model, each.precision)):
        table.add_section()
        for each in group:
            difference = "" if each.difference is None else f"{each.difference:+.1f}"
            figures = (label_of(each.measure).heading, f"{each.published:.1f}", cell(each.here), difference)
            table.add_row(model, precision, *figures)
            model = precision = ""  # once a section
    return table


def print_comparison(published: PublishedRow, compared: Sequence[Compared]) -> None:
    """Print the table, where the figures come from, and what the published code did otherwise."""
    console = output_console()
    console.print(comparison_table(published.name, compared))
    for line in (f"Published: {published.source}.", *published.notes):
        console.print(line, markup=False, highlight=False)
