"""A comparison of two models' weights as figures (QUAIL Fig. 1 to 5, and what formats deliver)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.comparison import Comparison, Questions, key_for, total_delivery
from quail_lightning.comparison.layer_figure import (
    COLORS,
    MARKERS,
    add_caption,
    number_layers,
    overlap_by_layer,
    panels,
    quantized_self_by_layer,
    start_at_zero,
)
from quail_lightning.storage.figure_files import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def draw_comparison(found: Comparison, questions: Questions) -> dict[str, Figure]:
    """The figures by name: ``layers``, ``quantized_self``, ``tensors`` and, with formats, ``delivered``."""
    figures = {
        "layers": overlap_by_layer(found, questions),
        "quantized_self": quantized_self_by_layer(found, questions),
        "tensors": _histograms(found, questions),
    }
    if questions.formats:
        figures["delivered"] = _delivered(found, questions)
    return figures


def save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write each as PNG and SVG, whole or not at all.

    Args:
        figures: by file name.
        folder: which exists.
    """
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            write_figure(figure, folder / f"{name}.{ending}", DOTS_PER_INCH)
            figure.set_layout_engine("none")  # what was laid out once fits the other file too


def _histograms(found: Comparison, questions: Questions) -> Figure:
    """A panel for each bit width: tensors by their overlap, every tensor on its own grid where that was asked."""
    from matplotlib.ticker import MaxNLocator

    granularity = "tensor" if "tensor" in questions.granularities else questions.granularities[0]
    kind, widths = questions.kinds[0], sorted(set(questions.bits), reverse=True)
    how = "tensor-wise" if granularity == "tensor" else granularity
    figure, axes = panels(len(widths), f"quantized tensors by their {how} overlap, {kind}", height=2.9)
    for axis, bits, color in zip(axes, widths, COLORS * 9, strict=False):
        key = key_for(kind, granularity, bits, "quantized")
        shares = [100 * tensor.overlaps[key].overlap for tensor in found.within("quantized")]
        low, high = min(shares), max(shares)
        margin = max(0.01, (high - low) * 0.05)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.hist(shares, bins=30, range=(low - margin, min(100.0, high + margin) + 1e-9), color=color)
        axis.set_title(f"{bits} bits", fontsize=10)
        axis.set_xlabel("overlap, %")
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("tensors")
    add_caption(
        figure,
        "How many tensors have which share of their weights in the bucket that the target's weight is in. The "
        "horizontal axes span what was found, each its own, not 0 to 100 %.",
    )
    return figure


def _delivered(found: Comparison, questions: Questions) -> Figure:
    """By layer: the share of the update that arrives, its direction, and the signal-to-noise ratio."""
    figure, axes = panels(3, "what formats deliver of the update, by layer")
    layers = found.layers()
    for used, color, marker in zip(questions.formats, COLORS * 9, MARKERS * 9, strict=False):
        totals = [total_delivery(tensors, used.name) for tensors in layers.values()]
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 3.5, "linewidth": 1.2}
        shown: Sequence[list[float | None]] = (
            [None if total.along is None else 100 * total.along for total in totals],
            [total.cosine for total in totals],
            [total.signal_to_noise for total in totals],
        )
        for axis, values in zip(axes, shown, strict=True):
            axis.plot(
                list(layers),
                [float("nan") if v is None else v for v in values],
                label=used.name if axis is axes[-1] else None,
                **style,
            )
        expected = [total.expected_signal_to_noise for total in totals]
        axes[2].plot(list(layers), expected, color=color, linestyle=":", linewidth=1.2)
    axes[0].axhline(100, color="0.5", linewidth=0.8)
    for axis, title in zip(axes, ("along the update, %", "cosine", "row's signal/noise"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("layer")
        number_layers(axis)
    axes[2].plot([], [], color="0.4", linestyle=":", label="expected signal/noise")
    axes[2].plot([], [], color="0.5", linewidth=0.8, label="100 %: all arrives")
    start_at_zero(axes)
    add_caption(
        figure,
        "Left: how much of the update arrives in its own direction; far below 100 % it is lost. Middle and right: "
        "how much rounding noise comes with it; a low cosine beside 100 % means a noisy delivery, not a lost one.",
    )
    figure.legend(loc="outside right center", fontsize=8)
    return figure
