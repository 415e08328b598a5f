"""Runs as a LaTeX table in the papers' layout: method × precision, M1 to M4."""

from __future__ import annotations

from collections.abc import Sequence

from quail_lightning.errors import InputError
from quail_lightning.evaluation.published import MEASURES
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.report.side_by_side import names_of, precisions_of, rows_at
from quail_lightning.run.results import Estimate, Measure, Undefined

HEADINGS = (
    r"M1 VerbMem $\downarrow$",
    r"M2 KnowMem $\downarrow$",
    r"M3 PrivLeak $\to 0$",
    r"M4 KnowMem $\uparrow$",
)
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" + "\n"
"""Scales a table down to the column's width; a narrower one is left as it is."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def as_latex(runs: Sequence[FinishedRun]) -> str:
    """A table for ``booktabs``: for each method a row at each precision, values with their 95 % intervals.

    It is no wider than its column.

    Target and retrained model come first. A measure without a value is a dash, one that was not run is blank; one
    that carries a caution has a star, and the caption says what it means.

    Raises:
        InputError: no run has any of M1 to M4.
    """
    by_model: dict[str, list[tuple[str, list[Measure | None]]]] = {}
    for precision in precisions_of(runs):
        for row in rows_at(runs, precision):
            figures = [row.metrics.get(name) for name in MEASURES]
            by_model.setdefault(row.model, []).append((precision, figures))
    figures = [each for rows in by_model.values() for _, found in rows for each in found if each is not None]
    if not figures:
        raise InputError(
            "the runs have none of M1 to M4, which the papers' tables show",
            allowed=", ".join(MEASURES),
            remedy="Take --csv, which holds every figure",
        )
    titles = {"target": "Target", "retrained": "Retrained"} | _titles(runs)
    cautions = {each.caution: None for each in figures if isinstance(each, Estimate) and each.caution}
    numbers = _numbers(
        [[found[n] for rows in by_model.values() for _, found in rows] for n in range(len(MEASURES))]
    )
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_caption(list(cautions))}}}",
        FITTED + r"\begin{tabular}{ll" + "r" * len(MEASURES) + "}",
        r"\toprule",
        _line(["Method", "Precision", *HEADINGS]),
        _line(["", "", *numbers]),
    ]
    for model, rows in by_model.items():
        lines.append(r"\midrule")
        for number, (precision, found) in enumerate(rows):
            title = "" if number else escaped(titles[model])
            lines.append(_line([title, escaped(precision), *map(_cell, found)]))
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Any text as LaTeX shows it."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _titles(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Run's short name → its method, with the run's name where two have one method or none is known."""
    named = names_of(runs)
    methods = [run.method for run in runs]
    found = {}
    for name, run in named.items():
        alone = run.method and methods.count(run.method) == 1
        found[name] = run.method if alone else f"{run.method} ({name})" if run.method else name
    return found


def _caption(cautions: Sequence[str]) -> str:
    said = r"Scores $\times 100$ with 95\,\% bootstrap intervals in brackets; --: undefined."
    return " ".join([said, *(rf"\textsuperscript{{*}}: {escaped(caution)}." for caution in cautions)])


def _numbers(columns: Sequence[Sequence[Measure | None]]) -> list[str]:
    """Of how many records a column's figures are."""
    found = []
    for column in columns:
        sizes = sorted({each.n for each in column if isinstance(each, Estimate)})
        found.append(
            "" if not sizes else f"$n={sizes[0]}$" if len(sizes) == 1 else f"$n={sizes[0]}$--${sizes[-1]}$"
        )
    return found


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "--"
    star = r"\textsuperscript{*}" if measure.caution else ""
    return rf"{_figure(measure.value)}{star} {{\scriptsize [{_figure(measure.low)}, {_figure(measure.high)}]}}"


def _figure(value: float) -> str:
    """With one digit behind the point; a true minus sign, and none before a rounded zero."""
    shown = f"{round(value, 1) + 0.0:.1f}"
    return f"${shown}$" if shown.startswith("-") else shown
