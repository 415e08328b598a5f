"""Bucket overlap by decoder layer, drawn (QUAIL Fig. 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from textwrap import fill
from typing import TYPE_CHECKING

from quail_lightning.comparison.result import Comparison, GridKey, Overlap, key_for, total_overlap
from quail_lightning.comparison.scan import Questions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, told apart also by the color-blind."""
MARKERS = "os^Dv*x"


def overlap_by_layer(found: Comparison, questions: Questions) -> Figure:
    """Overlap of the two models' quantized weights, and dotted what is expected of it (QUAIL Fig. 1)."""
    caption = (
        "Near 100 %: few weights change bucket, each by a whole step. Dotted: what is expected if weights lie "
        "anywhere in their buckets; a line above it says that the weights which moved lie further from the edges."
    )
    return _by_layer(found, questions, "bucket overlap by layer", caption, _overlap, _expected)


def quantized_self_by_layer(found: Comparison, questions: Questions) -> Figure:
    """Overlap of the model with its own quantized self (QUAIL Fig. 2)."""
    caption = (
        "Share of the unlearned model's weights whose bucket is still theirs once it is quantized and saved; "
        "below 100 % its quantized self has another grid, or the saved dtype moved levels across an edge."
    )
    return _by_layer(found, questions, "model against its quantized self", caption, _with_itself, None)


def panels(count: int, title: str, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """An empty figure with so many panels side by side.

    Args:
        count: of panels.
        title: above all of them.
        height: inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 3.3 * count), height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def add_caption(figure: Figure, caption: str) -> None:
    """A sentence or two of how to read it, below the panels.

    Args:
        figure: with its panels.
        caption: one paragraph.
    """
    figure.supxlabel(fill(caption, round(15 * figure.get_figwidth())), fontsize=8, color="0.25")


def start_at_zero(axes: Iterable[Axes]) -> None:
    """Let the vertical axes start at 0; where that would flatten the curves they say that they do not.

    Args:
        axes: with their curves.
    """
    for axis in axes:
        low, high = axis.get_ylim()
        if 0 < low < high / 2:
            axis.set_ylim(bottom=0)
        elif low > 0:
            axis.text(
                0.02,
                0.02,
                f"from {low:.4g}, not 0",
                transform=axis.transAxes,
                fontsize=7,
                color="0.4",
                va="bottom",
            )


def number_layers(axis: Axes) -> None:
    """Layers are whole numbers, and shares are written out."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.ticklabel_format(axis="y", useOffset=False)


def _label(key: GridKey, questions: Questions) -> str:
    return f"{key.bits} bits" if len(set(questions.kinds)) == 1 else f"{key.bits} bits, {key.kind}"


def _by_layer(
    found: Comparison,
    questions: Questions,
    title: str,
    caption: str,
    measure: Callable[[Overlap], float],
    beside: Callable[[Overlap], float] | None,
) -> Figure:
    """A panel for each granularity, a line for each bit width and grid."""
    granularities = list(dict.fromkeys(questions.granularities))
    figure, axes = panels(len(granularities), title)
    layers = found.layers()
    for axis, granularity in zip(axes, granularities, strict=True):
        styles = zip(COLORS * 9, MARKERS * 9, strict=False)
        for kind in dict.fromkeys(questions.kinds):
            for bits in sorted(set(questions.bits), reverse=True):
                key = key_for(kind, granularity, bits, "quantized")
                color, marker = next(styles)
                totals = [total_overlap(tensors, key) for tensors in layers.values()]
                axis.plot(
                    list(layers),
                    [100 * measure(total) for total in totals],
                    color=color,
                    marker=marker,
                    markersize=3.5,
                    linewidth=1.2,
                    label=_label(key, questions) if axis is axes[-1] else None,
                )
                if beside is not None:
                    expected = [100 * beside(total) for total in totals]
                    axis.plot(list(layers), expected, color=color, linestyle=":", linewidth=1.2)
        axis.set_title("tensor-wise" if granularity == "tensor" else granularity, fontsize=10)
        axis.set_xlabel("layer")
        number_layers(axis)
    axes[0].set_ylabel("weights in the same bucket, %")
    if beside is not None:
        axes[-1].plot([], [], color="0.4", linestyle=":", label="expected")
    start_at_zero(axes)
    add_caption(figure, caption)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _overlap(overlap: Overlap) -> float:
    return overlap.overlap


def _expected(overlap: Overlap) -> float:
    return overlap.expected


def _with_itself(overlap: Overlap) -> float:
    return overlap.with_itself
