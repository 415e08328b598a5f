"""The curves over folds, read back from the figure."""

import pytest

from quail_lightning.analysis.fold_curves import draw_folds
from quail_lightning.run.results import Estimate, ResultRow, Undefined

FOLDS = ["fold 1: a", "fold 2: b"]


def row(model, precision, **values):
    metrics = {
        name: Estimate(value, 3, value - 1, value + 1) if isinstance(value, float) else value
        for name, value in values.items()
    }
    return ResultRow(model, precision, metrics)


ROWS = [
    row("target", "bf16", knowmem_retain=90.0, verbmem_forget=80.0),
    row("target", "nf4", knowmem_retain=88.0),
    row("retrained", "bf16", knowmem_retain=91.0),
    row(FOLDS[0], "bf16", knowmem_retain=70.0, verbmem_forget=Undefined("why"), nll_forget=2.0),
    row(FOLDS[0], "nf4", knowmem_retain=60.0, delivered_forgetting=1.0),
    row(FOLDS[1], "bf16", knowmem_retain=50.0, verbmem_forget=5.0),
    row(FOLDS[1], "nf4", knowmem_retain=40.0),
]


def panels():
    return {axis.get_title(): axis for axis in draw_folds(ROWS, FOLDS).axes}


def line(axis, number):
    points = axis.containers[number].lines[0]
    return list(points.get_xdata()), list(points.get_ydata())


def test_each_metric_of_the_models_has_a_panel_with_the_target_as_fold_0():
    assert list(panels()) == ["Verbatim recall ↓", "Retain Q&A ↑"]
    utility = panels()["Retain Q&A ↑"]
    assert line(utility, 0) == ([0, 1, 2], [90.0, 70.0, 50.0])
    assert line(utility, 1) == ([0, 1, 2], [88.0, 60.0, 40.0])
    assert [drawn.get_ydata()[0] for drawn in utility.lines if drawn.get_linestyle() == ":"] == [91.0]


def test_an_undefined_figure_leaves_a_gap_and_is_not_zero():
    assert line(panels()["Verbatim recall ↓"], 0) == ([0, 2], [80.0, 5.0])


def test_intervals_that_leave_their_figure_out_are_drawn():
    rows = [row(FOLDS[0], "bf16", knowmem_retain=Estimate(5.0, 3, 6.0, 7.0))]
    (axis,) = draw_folds(rows, FOLDS[:1]).axes
    assert axis.containers[0].lines[0].get_ydata()[0] == pytest.approx(5.0)


def test_every_line_has_a_legend_entry_and_the_figure_a_caption():
    figure = draw_folds(ROWS, FOLDS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["retrained, bf16", "bf16", "nf4"]
    assert "95 % intervals" in figure.get_supxlabel()


def test_without_a_retrained_model_the_legend_names_none():
    figure = draw_folds([each for each in ROWS if each.model != "retrained"], FOLDS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bf16", "nf4"]


def test_an_axis_that_does_not_start_at_0_says_so():
    high = [row(FOLDS[0], "bf16", knowmem_retain=90.0), row("target", "bf16", knowmem_retain=91.0)]
    (axis,) = draw_folds(high, FOLDS[:1]).axes
    assert axis.get_ylim()[0] > 0
    assert any("not 0" in text.get_text() for text in axis.texts)
    low = [row(FOLDS[0], "bf16", knowmem_retain=30.0), row("target", "bf16", knowmem_retain=91.0)]
    (axis,) = draw_folds(low, FOLDS[:1]).axes
    assert axis.get_ylim()[0] == 0
    assert not axis.texts
