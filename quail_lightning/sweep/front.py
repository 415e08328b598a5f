"""The Pareto front: trials that no other one beats in both figures, and the winner among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quail_lightning.comparison.layer_figure import COLORS, panels
from quail_lightning.sweep.study import origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial


def on_front(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the finished trials that no other one beats: less forgetting missing, or more utility kept."""
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return {origin(trial) for trial in done if not any(_beats(other, trial) for other in done)}


def winner(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Of the front, the trial with the smallest shortfall, by which the best epoch of a run is chosen, too.

    The earlier one of two that are alike; None where no trial was finished.
    """
    front = on_front(trials)
    candidates = [trial for trial in trials if origin(trial) in front]
    return min(candidates, key=lambda trial: (trial.user_attrs["shortfall"], origin(trial)), default=None)


def draw_front(trials: Sequence[FrozenTrial], floor: float | None) -> Figure:
    """Every trial that has figures: what is missing of the forgetting, and the utility that is kept.

    Args:
        trials: the last attempt of each.
        floor: of the utility, a fraction.
    """
    figure, (axis,) = panels(1, "trials of the sweep, at the worst format", height=4.0)
    figure.set_size_inches(7.0, 4.2)
    front, best = on_front(trials), winner(trials)
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    groups = (
        ("dominated", [t for t in done if origin(t) not in front], "o", "0.6"),
        ("Pareto front", [t for t in done if origin(t) in front], "o", COLORS[0]),
        ("stopped below the floor", [t for t in trials if t.state.name == "PRUNED"], "x", COLORS[1]),
    )
    for label, members, marker, color in groups:
        points = sorted(_point(trial) for trial in members)
        if not points:
            continue
        is_front = label == "Pareto front"
        axis.plot(
            *zip(*points, strict=True),
            color=color,
            marker=marker,
            linestyle="-" if is_front else "none",
            drawstyle="steps-post" if is_front else "default",
            linewidth=1.2,
            label=label,
        )
        for trial in members:
            axis.annotate(str(origin(trial)), _point(trial), (4, 4), textcoords="offset points", fontsize=7)
    if best is not None:
        axis.plot(*_point(best), marker="*", markersize=13, linestyle="none", color=COLORS[2], label="winner")
    known = [trial.user_attrs["target_gap"] for trial in done[:1]]
    if known:
        axis.axvline(known[0], color="0.4", linestyle="--", linewidth=1, label="the target's own gap")
    if floor is not None:
        axis.axhline(100 * floor, color="0.4", linestyle=":", linewidth=1, label="utility floor")
    axis.set_xlabel("forgetting gap, nats a token (0: as unknown as the goal)", fontsize=8)
    axis.set_ylabel("utility kept, % (the axis need not start at 0)", fontsize=8)
    axis.set_title("Better is up and to the left; numbers name the trials.", fontsize=8)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _beats(one: FrozenTrial, other: FrozenTrial) -> bool:
    (gap, kept), (other_gap, other_kept) = one.values, other.values
    return gap <= other_gap and kept >= other_kept and (gap, kept) != (other_gap, other_kept)


def _point(trial: FrozenTrial) -> tuple[float, float]:
    return trial.user_attrs["forgetting"], 100 * trial.user_attrs["utility"]
