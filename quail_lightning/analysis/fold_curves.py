"""What is forgotten and what is kept, over the folds of a sustainability or scalability run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quail_lightning.comparison.layer_figure import (
    COLORS,
    MARKERS,
    add_caption,
    number_layers,
    panels,
    start_at_zero,
)
from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.run.results import Estimate, ResultRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_OUT = ("membership_auc", "nll_forget")
"""What PrivLeak restates, and what every fold measures on a forget set of its own."""


def draw_folds(rows: Sequence[ResultRow], folds: Sequence[str]) -> Figure:
    """A panel for each metric of the models themselves: value over folds, a line for each precision.

    Fold 0 is the target. Bars are 95 % intervals; a dotted line is the retrained model at its first precision.

    Args:
        rows: of ``target``, perhaps ``retrained``, and of each fold.
        folds: what the rows call the folds, in order.
    """
    evaluated = {(row.model, row.precision): row.metrics for row in rows}
    precisions = list(dict.fromkeys(precision for model, precision in evaluated if model in folds))
    names = [
        name
        for name in labels()
        if name not in LEFT_OUT
        and label_of(name).table not in ("survival", "files")
        and any(isinstance(evaluated[fold, p].get(name), Estimate) for fold in folds for p in precisions)
    ]
    figure, axes = panels(max(1, len(names)), "over the folds; 0: target")
    compared = False
    for axis, name in zip(axes, names, strict=False):
        for precision, color, marker in zip(precisions, COLORS * 9, MARKERS * 9, strict=False):
            found = [evaluated.get((model, precision), {}).get(name) for model in ("target", *folds)]
            points = [(n, value) for n, value in enumerate(found) if isinstance(value, Estimate)]
            values = [value.value for _, value in points]
            # a percentile interval need not hold its figure
            below = [max(0.0, value.value - value.low) for _, value in points]
            above = [max(0.0, value.high - value.value) for _, value in points]
            axis.errorbar(
                [n for n, _ in points],
                values,
                (below, above),
                label=precision if axis is axes[0] else None,
                color=color,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                elinewidth=0.6,
                capsize=2,
            )
        retrained = next((row.metrics.get(name) for row in rows if row.model == "retrained"), None)
        if isinstance(retrained, Estimate):
            axis.axhline(retrained.value, color="0.5", linestyle=":", linewidth=1)
            compared = True
        axis.set_title(label_of(name).heading.replace("→ ", "to "), fontsize=10)
        axis.set_xlabel("fold")
        number_layers(axis)
    if compared:
        first = next(row.precision for row in rows if row.model == "retrained")
        axes[0].plot([], [], color="0.5", linestyle=":", linewidth=1, label=f"retrained, {first}")
    start_at_zero(axes)
    add_caption(
        figure,
        "Each fold is forgotten after those before it; bars are 95 % intervals, a gap is an undefined figure. "
        "The arrow says which way is wanted: lines of what is kept should stay flat.",
    )
    figure.legend(loc="outside right center", fontsize=8)
    return figure
