"""A comparison of two models' weights as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from quail_lightning.analysis.weight_shift import QUANTILES, SCOPES
from quail_lightning.comparison import (
    Comparison,
    Questions,
    Scope,
    SharedStep,
    key_for,
    total_delivery,
    total_overlap,
)

NARROWEST = (
    120  # columns that the widest table needs; a narrower terminal wraps lines rather than cutting figures off
)
WEIGHTS: dict[Scope, str] = {"quantized": "quantized linear weights", "all": "all parameters"}
STEPS: dict[SharedStep, str] = {"global": "global", "tensor": "tensor-wise"}


def print_comparison(found: Comparison, questions: Questions) -> None:
    """Print weight change, bucket overlap and, where it was measured, the delivered shift."""
    console = Console()
    if console.width < NARROWEST:
        console = Console(width=NARROWEST)
    for table in comparison_tables(found, questions):
        console.print(table)


def comparison_tables(found: Comparison, questions: Questions) -> list[Table]:
    """Weight change, bucket overlap (QUAIL Table I) and delivered shift."""
    tables = [_change_table(found), _overlap_table(found, questions)]
    return [*tables, _delivery_table(found, questions)] if questions.formats else tables


def _change_table(found: Comparison) -> Table:
    table = _table("weight change |δ|, exact matches in %", ["weights"])
    headings = ["count", "exact matches", "mean", "max", *(f"{share:.1%} within" for share in QUANTILES)]
    for heading in headings:
        table.add_column(heading.replace(".0%", "%"), justify="right", no_wrap=heading == "count")
    for scope in SCOPES:
        change = found.changes[scope]
        sizes = [change.mean, change.largest, *(change.quantile(share) for share in QUANTILES)]
        table.add_row(
            WEIGHTS[scope], f"{change.count:,}", _percent(change.exact_matches), *(f"{s:.2e}" for s in sizes)
        )
    return table


def _overlap_table(found: Comparison, questions: Questions) -> Table:
    table = _table("bucket overlap, %", ["weights", "grid", "step", "bits"])
    for heading in ("Δ", "overlap", "expected", "own grids", "with Q(f)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for scope in SCOPES:
        for kind in dict.fromkeys(questions.kinds):
            for granularity in dict.fromkeys(questions.granularities):
                for bits in sorted(set(questions.bits), reverse=True):
                    total = total_overlap(found.within(scope), key_for(kind, granularity, bits, scope))
                    shares = (total.overlap, total.expected, total.own_grids, total.with_itself)
                    named = (WEIGHTS[scope], kind, STEPS[granularity], str(bits))
                    table.add_row(*named, f"{total.step:.2e}", *map(_percent, shares))
                table.add_section()
    table.caption = (
        "overlap: both models' indices on the reference's grid · Δ: step, of tensors the mean over weights · "
        "expected: 1 − the mean of min(1, |δ|/Δ) · own grids: each model's index on its own grid · "
        "with Q(f): the model with its own quantized self"
    )
    return table


def _delivery_table(found: Comparison, questions: Questions) -> Table:
    table = _table("what each format delivers of the update, %, quantized linear weights", ["format"])
    for heading in (
        "overlap",
        "expected",
        "own grids",
        "along δ",
        "‖D‖/‖δ‖",
        "cosine",
        "signal/noise",
        "expected",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for used in questions.formats:
        total = total_delivery(found.within("quantized"), used.name)
        buckets = total.buckets
        ratios = (total.norm_ratio, total.cosine, total.signal_to_noise, total.expected_signal_to_noise)
        table.add_row(
            used.name,
            *map(_percent, (buckets.overlap, buckets.expected, buckets.own_grids, total.along)),
            *("–" if ratio is None else f"{ratio:.3g}" for ratio in ratios),
        )
    table.caption = (
        "D = Q(w′) − Q(w), δ = w′ − w · along δ: ⟨D, δ⟩/‖δ‖², 100 %: all of the update arrives in its direction · "
        "signal/noise: of a row's output, for an input aligned with the row's update"
    )
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, caption_justify="left")
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _percent(share: float | None) -> str:
    """Three decimals: 99.8 and 99.98 % are different findings; never 100 where a weight is missing."""
    if share is None:
        return "–"
    shown = f"{100 * share:.3f}"
    return "99.999+" if shown == "100.000" and share < 1 else shown
