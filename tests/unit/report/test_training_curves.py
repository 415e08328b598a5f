"""Losses are drawn as they were logged."""

from pathlib import Path

from fabricated_run import log_losses

from quail_lightning.report.training_curves import CHARTS, POINTS, Curve, draw_curves, read_curves, thinned


def test_curves_are_read_as_logged_and_each_line_is_in_the_legend(tmp_path: Path) -> None:
    log_losses(tmp_path)
    curves = read_curves(tmp_path)
    assert curves["train/forget"] == Curve([0, 1, 2], [0.0, -1.0, -2.0])
    assert set(curves) == {"train/forget", "train/hinge", "train/retain", "train/forget_nll"}
    figures = draw_curves(curves)
    assert list(figures) == list(CHARTS)
    (axis,) = figures["losses as they are minimized, unweighted"].axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}  # type: ignore[arg-type]
    assert lines == {"forget": [0, -1, -2], "hinge": [0.5] * 3, "retain": [1, 2, 3]}
    (legend,) = figures["losses as they are minimized, unweighted"].legends
    assert [text.get_text() for text in legend.get_texts()] == list(lines)


def test_a_folder_without_events_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    assert draw_curves({}) == {}


def test_a_long_curve_keeps_its_ends(tmp_path: Path) -> None:
    steps = list(range(10_000))
    short = thinned(Curve(steps, [float(step) for step in steps]))
    assert len(short.steps) == POINTS
    assert (short.steps[0], short.steps[-1]) == (0, 9_999)
    assert list(short.values) == [float(step) for step in short.steps]
    assert all(24 <= after - before <= 26 for before, after in zip(short.steps, short.steps[1:], strict=False))
