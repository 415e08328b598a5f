"""What the figures of a comparison say beside their curves."""

import numpy as np
import pytest

from quail_lightning.analysis.figures import draw_comparison
from quail_lightning.comparison import ModelWeights, Questions, compare, formats, parameter_roles
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.quantization import Uniform


@pytest.fixture(scope="module")
def figures():
    models = [tiny_llama(vocab_size=60, width=64, layers=2, heads=2, positions=32, seed=seed) for seed in (1, 2)]
    questions = Questions((8, 4), formats=formats({"int4": Uniform(4, "tensor"), "int5": Uniform(5, "tensor")}))
    found = compare(*map(ModelWeights, models), parameter_roles(models[0]), questions)
    return draw_comparison(found, questions)


def test_every_figure_has_a_caption(figures):
    assert set(figures) == {"layers", "quantized_self", "tensors", "delivered"}
    for figure in figures.values():
        assert figure.get_supxlabel().endswith(".")


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("layers", {"8 bits", "4 bits", "expected"}),
        ("quantized_self", {"8 bits", "4 bits"}),
        ("delivered", {"int4", "int5", "expected signal/noise", "100 %: all arrives"}),
    ],
)
def test_every_line_has_a_legend_entry(figures, name, entries):
    figure = figures[name]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == entries
    drawn = {(line.get_color(), line.get_linestyle()) for axis in figure.axes for line in axis.lines}
    shown = {(line.get_color(), line.get_linestyle()) for line in figure.legends[0].get_lines()}
    dotted = {each for each in drawn if each[1] == ":"}  # of every color, under one gray entry
    assert drawn - dotted <= shown
    assert not dotted or any(style == ":" for _, style in shown)


def test_axes_start_at_0_or_say_where_they_do(figures):
    for name in ("layers", "quantized_self", "delivered"):
        for axis in figures[name].axes:
            low = axis.get_ylim()[0]
            said = [text.get_text() for text in axis.texts]
            assert low <= 0 or said == [f"from {low:.4g}, not 0"]
            assert np.isfinite(low)
