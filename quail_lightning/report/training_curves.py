"""The losses of a training, read from TensorBoard's event files and drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from quail_lightning.comparison.layer_figure import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 400  # of a line: more cannot be told apart, and would make a large page
CHARTS = {
    "losses as they are minimized, unweighted": {
        "train/forget": "forget",
        "train/hinge": "hinge",
        "train/retain": "retain",
    },
    "NLL before each step, nats a token": {
        "train/forget_nll": "forget windows",
        "train/retain_nll": "retain windows",
    },
}
"""Title → tag → what the legend calls it."""
STYLES = ("-", "--", ":")


class Curve(NamedTuple):
    """One line.

    Attributes:
        steps: batches trained on.
        values: at each.
    """

    steps: Sequence[int]
    values: Sequence[float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Tag → curve, of the tags in ``CHARTS`` that the run's own event files hold; empty where there are none.

    What a damaged file holds after its first fault is left out. Values that are not finite are left out.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    held = set(events.Tags()["scalars"])
    found = {}
    for tag in (tag for chart in CHARTS.values() for tag in chart if tag in held):
        scalars = [each for each in events.Scalars(tag) if abs(each.value) < float("inf")]
        if scalars:
            found[tag] = Curve([each.step for each in scalars], [each.value for each in scalars])
    return found


def draw_curves(curves: Mapping[str, Curve]) -> dict[str, Figure]:
    """Title → figure, of every chart that has a line; each line has its place in the legend."""
    figures = {}
    for title, tags in CHARTS.items():
        if not (present := {tag: name for tag, name in tags.items() if tag in curves}):
            continue
        figure, (axis,) = panels(1, title, height=2.9)
        for (tag, name), color, style in zip(present.items(), COLORS, STYLES, strict=False):
            steps, values = thinned(curves[tag])
            marker = "o" if len(steps) < 3 else None  # a line of one point is none
            axis.plot(steps, values, color=color, linestyle=style, marker=marker, linewidth=1.3, label=name)
        axis.set_xlabel("step", fontsize=8)
        axis.ticklabel_format(axis="y", useOffset=False)
        figure.legend(loc="outside right center", fontsize=8)
        figures[title] = figure
    return figures


def thinned(curve: Curve) -> Curve:
    """At most ``POINTS`` of its points, evenly spread, the first and the last among them."""
    count = len(curve.steps)
    if count <= POINTS:
        return curve
    chosen = [round(n * (count - 1) / (POINTS - 1)) for n in range(POINTS)]
    return Curve([curve.steps[n] for n in chosen], [curve.values[n] for n in chosen])
