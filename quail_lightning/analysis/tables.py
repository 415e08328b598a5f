"""A comparison of two models' weights as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from quail_lightning.analysis.weight_shift import QUANTILES, SCOPES
from quail_lightning.comparison import (
    Comparison,
    Questions,
    Scope,
    SharedStep,
    kept_by_gradient,
    kept_by_weights,
    key_for,
    total_delivery,
    total_overlap,
)
from quail_lightning.run.tables import REDIRECTED, fitting_tables, output_console

WEIGHTS: dict[Scope, str] = {"quantized": "quantized linear weights", "all": "all parameters"}
STEPS: dict[SharedStep, str] = {"global": "global", "tensor": "tensor-wise"}


def print_comparison(found: Comparison, questions: Questions, rise: float | None = None) -> None:
    """Print weight change, bucket overlap and, where it was measured, the delivered shift."""
    console = output_console()
    for table in comparison_tables(found, questions, console.width, rise):
        console.print(table)


def comparison_tables(
    found: Comparison, questions: Questions, width: int = REDIRECTED, rise: float | None = None
) -> list[Table]:
    """Weight change, bucket overlap (QUAIL Table I) and delivered shift.

    Args:
        found: the comparison.
        questions: that it answers.
        width: of the output, columns of text.
        rise: of the forget NLL, nats a token, where its gradient was compared along.
    """
    made = [_change(found), _overlap(found, questions)]
    return [
        table
        for figures in [*made, *([_delivery(found, questions, rise)] if questions.formats else [])]
        for table in figures.tables(width)
    ]


@dataclass
class _Figures:
    """A table's figures; its first columns name the rows.

    Attributes:
        rows: names and figures of each; None draws a line.
    """

    title: str
    names: Sequence[str]
    headings: Sequence[str]
    rows: list[tuple[Sequence[str], Sequence[str]] | None] = field(default_factory=list)
    caption: str = ""

    def tables(self, width: int) -> list[Table]:
        found = list(fitting_tables(self._table, range(len(self.headings)), self.title, width))
        found[-1].caption = self.caption or None
        return found

    def _table(self, columns: Sequence[int], title: str) -> Table:
        table = Table(title=title, caption_justify="left")
        for name in self.names:
            table.add_column(name, no_wrap=True)
        for column in columns:
            table.add_column(self.headings[column].replace(" ", "\n"), justify="right", no_wrap=True)
        for row in self.rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*row[0], *(row[1][column] for column in columns))
        return table


def _change(found: Comparison) -> _Figures:
    quantiles = [f"{share:.1%} within".replace(".0%", "%") for share in QUANTILES]
    headings = ["count", "exact matches", "mean", "max", *quantiles]
    figures = _Figures("weight change |δ|, exact matches in %", ["weights"], headings)
    for scope in SCOPES:
        change = found.changes[scope]
        sizes = [change.mean, change.largest, *(change.quantile(share) for share in QUANTILES)]
        shown = [f"{change.count:,}", _percent(change.exact_matches), *(f"{size:.2e}" for size in sizes)]
        figures.rows.append(([WEIGHTS[scope]], shown))
    return figures


def _overlap(found: Comparison, questions: Questions) -> _Figures:
    headings = ["Δ", "overlap", "expected", "own grids", "with Q(f)"]
    figures = _Figures("bucket overlap, %", ["weights", "grid", "step", "bits"], headings)
    for scope in SCOPES:
        for kind in dict.fromkeys(questions.kinds):
            for granularity in dict.fromkeys(questions.granularities):
                for bits in sorted(set(questions.bits), reverse=True):
                    total = total_overlap(found.within(scope), key_for(kind, granularity, bits, scope))
                    shares = (total.overlap, total.expected, total.own_grids, total.with_itself)
                    named = (WEIGHTS[scope], kind, STEPS[granularity], str(bits))
                    figures.rows.append((named, [f"{total.step:.2e}", *map(_percent, shares)]))
                figures.rows.append(None)
    figures.caption = (
        "overlap: both models' indices on the reference's grid · Δ: step, of tensors the mean over weights · "
        "expected: 1 − the mean of min(1, |δ|/Δ) · own grids: each model's index on its own grid · "
        "with Q(f): the model with its own quantized self"
    )
    return figures


def _delivery(found: Comparison, questions: Questions, rise: float | None) -> _Figures:
    headings = ["predicted to arrive", *([] if rise is None else ["predicted by text"])]
    headings += ["overlap", "expected", "own grids", "along δ", "‖D‖/‖δ‖", "cosine", "signal/noise", "expected"]
    figures = _Figures(
        "what each format delivers of the update, %, quantized linear weights", ["format"], headings
    )
    for used in questions.formats:
        total = total_delivery(found.within("quantized"), used.name)
        buckets = total.buckets
        ratios = (total.norm_ratio, total.cosine, total.signal_to_noise, total.expected_signal_to_noise)
        predicted = [kept_by_weights(total), *([] if rise is None else [kept_by_gradient(total, rise)])]
        shown = ["–" if share is None else f"{100 * share:.0f}" for share in predicted]
        shown += map(_percent, (buckets.overlap, buckets.expected, buckets.own_grids, total.along))
        shown += ["–" if ratio is None else f"{ratio:.3g}" for ratio in ratios]
        figures.rows.append(([used.name], shown))
    figures.caption = (
        "D = Q(w′) − Q(w), δ = w′ − w · along δ: ⟨D, δ⟩/‖δ‖², 100 %: all of the update arrives in its direction · "
        "signal/noise: of a row's output, for an input aligned with the row's update · "
        "predicted to arrive: along δ, no less than 0 and no more than 100"
    )
    if rise is not None:
        figures.caption += (
            " · predicted by text: 1 − max(0, ⟨g, w′ − Q(w′)⟩) / rise, g the gradient of the forget NLL at w′, "
            f"whose rise is {rise:.3g} nats a token"
        )
    return figures


def _percent(share: float | None) -> str:
    """Three decimals: 99.8 and 99.98 % are different findings; never 100 where a weight is missing."""
    if share is None:
        return "–"
    shown = f"{100 * share:.3f}"
    return "99.999+" if shown == "100.000" and share < 1 else shown
