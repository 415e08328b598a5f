"""Result rows as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.run.results import Estimate, Measure, ResultRow, Undefined

NARROWEST = 112  # columns of titles and notes; a narrower terminal wraps rather than cutting figures off
WIDEST = 10_000  # columns that no table needs
TITLES = {
    "labels": "what it says of the labels",
    "utility": "what it is still good for",
    "survival": "what quantization left of it",
}
"""Tables of their own, by ``MetricLabel.table``: one with everything would fit no terminal."""


def results_tables(rows: Sequence[ResultRow], title: str) -> list[Table]:
    """One table of what each model knows and, where they were measured, one of the labels, one of the utility and
    one of what survived quantization.

    A metric that no row has gets no column; one that a row lacks is left blank, an undefined one is a dash.
    Of PrivLeak and the membership AUC that it restates one is shown: the AUC where PrivLeak carries a caution. A
    recovery is left to the results files where the capped one is there.
    """
    given = dict.fromkeys([*labels(), *(name for row in rows for name in row.metrics)])
    present = [name for name in given if any(name in row.metrics for row in rows)]
    known = [name for name in present if label_of(name).table == "known"]
    if "privleak" in known:
        known = [name for name in known if name != ("privleak" if _cautions(rows) else "membership_auc")]
    tables = [_table(rows, known, title)]
    for kind, heading in TITLES.items():
        names = [name for name in present if label_of(name).table == kind and f"{name}_capped" not in present]
        if names:
            measured = (
                rows if kind != "survival" else [row for row in rows if any(map(row.metrics.__contains__, names))]
            )
            tables.append(_table(measured, names, heading))
    tables[-1].caption = "± half of the 95 % interval; – undefined; blank: not run"
    return tables


def _cautions(rows: Sequence[ResultRow]) -> list[str]:
    """Why PrivLeak is not to be shown; empty where it may be."""
    leaks = [row.metrics["privleak"] for row in rows if "privleak" in row.metrics]
    found = {leak.reason if isinstance(leak, Undefined) else leak.caution for leak in leaks}
    if any(isinstance(leak, Estimate) and not leak.caution for leak in leaks):
        return []
    return sorted(found)


def print_results(
    rows: Sequence[ResultRow],
    title: str,
    note: str = "",
    verdicts: Mapping[str, Verdict] | None = None,
    evidence: Table | None = None,
) -> None:
    """Print tables, evidence and verdicts; tables at their full width also where the output is no terminal."""
    console = Console()
    tables = results_tables(rows, title)
    unlimited = console.options.update(width=WIDEST)
    needed = max(console.measure(table, options=unlimited).maximum for table in tables)
    if console.width < max(needed, NARROWEST):
        console = Console(width=max(needed, NARROWEST))
    for table in tables:
        console.print(table)
    if cautions := _cautions(rows):
        note = f"M3 would mean little, so the AUC it is made of is shown: {'; '.join(cautions)}.\n{note}".rstrip()
    if note:
        console.print(note, markup=False)
    if evidence is not None:
        console.print(evidence)
    if verdicts:
        longest = max(map(len, verdicts))
        console.print(Rule("verdict", align="left"))
        for precision, found in verdicts.items():
            console.print(f"{precision:<{longest}}  {found.text}", markup=False)


def _table(rows: Sequence[ResultRow], metrics: Sequence[str], title: str) -> Table:
    table = Table(title=Text(title))  # Text: a name in brackets is no markup
    table.add_column("model", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for name in metrics:
        heading = label_of(name).heading.replace(" ", "\n").replace("→\n", "→ ")
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous not in (None, row.model):
            table.add_section()
        previous = row.model
        table.add_row(Text(row.model), Text(row.precision), *(_cell(row.metrics.get(name)) for name in metrics))
    return table


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "–"
    digits = 1 if abs(measure.value) >= 10 else 2
    value = round(measure.value, digits) + 0.0  # + 0.0: no minus sign before a rounded zero
    return f"{value:.{digits}f} ±{(measure.high - measure.low) / 2:.{digits}f}"
