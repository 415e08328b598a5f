"""Result rows as terminal tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.run.results import Estimate, Measure, ResultRow, Undefined
from quail_lightning.run.tables import REDIRECTED, fitting_tables, output_console

HEADING, NAME = 11, 18  # columns of a heading's line and of a model's name
TITLES = {
    "membership": "who can tell that it was trained on",
    "labels": "what it says of the labels",
    "utility": "what it is still good for",
    "survival": "what came back of it",
}
"""Tables of their own, by ``MetricLabel.table``: one with everything would fit no terminal."""


def results_tables(rows: Sequence[ResultRow], title: str, width: int = REDIRECTED) -> list[Table]:
    """Tables of what each model knows and, where they were measured, of the labels, of the utility and of what
    survived quantization; what is wider than ``width`` columns is divided among several tables.

    A metric that no row has gets no column; one that a row lacks is left blank, an undefined one is a dash.
    Of PrivLeak and the membership AUC that it restates one is shown: the AUC where PrivLeak carries a caution. A
    recovery is left to the results files where the capped one is there.
    """
    found = dict.fromkeys(name for row in rows for name in row.metrics)
    present = [name for name in dict.fromkeys([*labels(found), *found]) if name in found]
    known = [name for name in present if label_of(name).table == "known"]
    if "privleak" in known:
        known = [name for name in known if name != ("privleak" if _cautions(rows) else "membership_auc")]
    tables = list(fitting_tables(partial(_table, rows), known, title, width))
    for kind, heading in TITLES.items():
        names = [name for name in present if label_of(name).table == kind and f"{name}_capped" not in present]
        measured = rows if kind != "survival" else [row for row in rows if row.metrics.keys() & {*names}]
        if names:
            tables += fitting_tables(partial(_table, measured), names, heading, width)
    tables[-1].caption = "± half of the 95 % interval; – undefined; blank: not run"
    return tables


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Model → what rows call it: the end of its path that tells it from the others, else a letter.

    What a name says in brackets is kept, but for what the title says of all of them.
    """
    paths = {model: Path(model.partition(" (")[0]).parts for model in models}
    notes = {model: " (retrained)" if " (retrained)" in model else "" for model in models}
    for depth in range(1, max(map(len, paths.values()), default=0) + 1):
        ends = {model: "/".join(parts[-depth:]) for model, parts in paths.items()}
        if len({*ends.values()}) == len(ends) and max(map(len, ends.values())) <= NAME:
            return {model: end + notes[model] for model, end in ends.items()}
    return {model: letter + notes[model] for letter, model in zip(_letters(), models, strict=False)}


def _letters() -> Iterator[str]:
    number = 0
    while True:
        yield ascii_uppercase[number % 26] + (str(number // 26) if number >= 26 else "")
        number += 1


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
    """Print tables that fit the terminal, their legend, evidence and verdicts."""
    console = output_console()
    for table in results_tables(rows, title, console.width):
        console.print(table)
    for model, short in short_names(list(dict.fromkeys(row.model for row in rows))).items():
        if short != model:
            console.print(f"{short}: {model}", markup=False, highlight=False, overflow="fold")
    if cautions := _cautions(rows):
        why = f"Membership leak would mean little; the AUC it is made of is shown: {'; '.join(cautions)}."
        note = f"{why}\n{note}".rstrip()
    if note:
        console.print(note, markup=False)
    if evidence is not None:
        console.print(evidence)
    if verdicts:
        console.print(Rule("verdict", align="left"))
        said = Table.grid(padding=(0, 2, 0, 0))
        for precision, found in verdicts.items():
            said.add_row(Text(precision), Text(found.text))
        console.print(said)


def _table(rows: Sequence[ResultRow], metrics: Sequence[str], title: str) -> Table:
    table = Table(title=Text(title))  # Text: a name in brackets is no markup
    table.add_column("model", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    short = short_names(list(dict.fromkeys(row.model for row in rows)))
    for name in metrics:
        heading = wrap(label_of(name).heading.replace("→ ", "→\u00a0"), HEADING, break_long_words=False)
        table.add_column("\n".join([*heading, *sample_sizes(rows, name)]), justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous not in (None, row.model):
            table.add_section()
        previous = row.model
        table.add_row(
            Text(short[row.model]),
            Text(row.precision),
            *(cell(row.metrics.get(name), label_of(name).unit) for name in metrics),
        )
    return table


def sample_sizes(rows: Sequence[ResultRow], metric: str) -> list[str]:
    """Of how many records a column's figures are, as the last line of its heading."""
    found = {measure.n for row in rows if isinstance(measure := row.metrics.get(metric), Estimate)}
    return ["n " + "–".join(str(number) for number in sorted({min(found), max(found)}))] if found else []


def cell(measure: Measure | None, unit: str = "") -> str:
    """A measure with half of its 95 % interval; a dash for an undefined one, nothing for one that was not run.

    A small p-value is shown by its power of ten: it is the power that tells.
    """
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "–"
    if unit == "p-value" and measure.value < 0.01:
        return f"{measure.value:.0e}"
    digits = 1 if abs(measure.value) >= 10 else 2
    value = round(measure.value, digits) + 0.0  # + 0.0: no minus sign before a rounded zero
    return f"{value:.{digits}f} ±{(measure.high - measure.low) / 2:.{digits}f}"
