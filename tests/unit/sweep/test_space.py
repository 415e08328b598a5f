"""A space file is read as it is meant, or refused before anything starts."""

import pytest
import yaml

from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.errors import InputError
from quail_lightning.sweep.space import Choice, Range, check_apart_from, option, read_space


def space_of(tmp_path, options, **content):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"options": options} | content))
    return read_space(path)


def test_values_ranges_sampler_and_floor_are_read(tmp_path):
    options = {
        "model.alpha": {"values": [1, 5.0]},
        "model.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True},
        "trainer.max_epochs": {"low": 2, "high": 9, "integer": True},
    }
    space = space_of(tmp_path, options, sampler="random", utility_floor=0.8)
    assert (space.sampler, space.utility_floor) == ("random", 0.8)
    assert space.options == {
        "model.alpha": Choice((1, 5.0)),
        "model.learning_rate": Range(1e-6, 1e-4, log=True),
        "trainer.max_epochs": Range(2, 9, integer=True),
    }
    assert space_of(tmp_path, options).sampler == "tpe"


def test_the_papers_grid_has_every_pair_of_alpha_and_gamma_once():
    points = read_space(find_config("sweep/quail.yaml")).grid()
    pairs = {(alpha, gamma) for alpha in (1, 5, 20) for gamma in (1, 5, 8, 9, 20, 50)}
    assert {(point["model.alpha"], point["model.gamma"]) for point in points} == pairs
    assert len(points) == len(pairs)
    assert {point["model.hinge.step"] for point in points} == {1.0}
    assert points == read_space(find_config("sweep/quail.yaml")).grid(), "workers agree on the order"


@pytest.mark.parametrize("name", shipped_names("sweep"))
def test_every_shipped_space_is_read(name):
    assert read_space(find_config(name)).options


@pytest.mark.parametrize(
    ("options", "content", "said"),
    [
        ({}, {}, "names no options"),
        ({"model.alpha": {"values": [1]}}, {"sampler": "bayes"}, "no such sampler.*grid, random, tpe"),
        ({"model.alpha": {"values": [1]}}, {"samplr": "grid"}, "unknown keys.*samplr"),
        ({"model.alpha": {"values": [1]}}, {"utility_floor": 80}, "between 0 and 1"),
        ({"model.alpha": {"values": []}}, {}, "at least one value"),
        ({"model.alpha": {"values": [1, 1.0]}}, {}, "twice"),
        ({"model.alpha": {"values": [[1]]}}, {}, "a value is a number"),
        ({"model.alpha": {"values": [float("nan")]}}, {}, "finite"),
        ({"model.alpha": [1, 2]}, {}, "has no values"),
        ({"model.alpha": {"low": 1}}, {}, "does not fit.*low"),
        ({"model.alpha": {"low": 0, "high": 1, "log": True}}, {}, "above 0 on a logarithmic scale"),
        ({"model.alpha": {"low": 2, "high": 1}}, {}, "low must lie below high"),
        ({"model.alpha": {"low": "1e-5x", "high": 1}}, {}, "low is a finite number"),
        ({"trainer.max_epochs": {"low": 1, "high": 2.5, "integer": True}}, {}, "high is a whole number"),
        ({"model.alpha": {"low": 1, "high": 2}}, {"sampler": "grid"}, "a grid has no ranges"),
        ({f"model.x{n}": {"values": list(range(30))} for n in range(3)}, {"sampler": "grid"}, "too large"),
        ({"--model alpha": {"values": [1]}}, {}, "is no option"),
        ({"best.enabled": {"values": [True]}}, {}, "sets this option of its trials itself"),
        ({"trainer.logger.init_args.name": {"values": ["x"]}}, {}, "sets this option"),
        (
            {"model.hinge": {"values": [None]}, "model.hinge.init_args.step": {"values": [1]}},
            {},
            "sets one option twice.*model.hinge",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, options, content, said):
    with pytest.raises(InputError, match=said):
        space_of(tmp_path, options, **content)


@pytest.mark.parametrize("text", ["a: [1,2", "- 1", "", "a: &a [*a]"])
def test_a_file_that_is_no_space_is_refused(tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(InputError, match=r"space\.yaml"):
        read_space(tmp_path / "space.yaml")


@pytest.mark.parametrize(
    "given",
    [
        ["--model.hinge.init_args.step=2"],
        ["--model.hinge.step", "2"],
        ["--model.hinge", "null"],
        ["--model", "x.yaml"],
    ],
)
def test_an_option_of_the_command_line_is_none_of_the_space(tmp_path, given):
    space = space_of(tmp_path, {"model.hinge.step": {"values": [1]}})
    with pytest.raises(InputError, match=r"set the same options.*model\.hinge\.step"):
        check_apart_from(space, given)
    check_apart_from(space, ["--model.hinge.form=smooth", "--config", "news.yaml", "--model.alpha=1"])


def test_what_the_sweep_sets_is_not_taken_from_the_command_line(tmp_path):
    space = space_of(tmp_path, {"model.alpha": {"values": [1]}})
    with pytest.raises(InputError, match=r"sets these options.*best\.enabled"):
        check_apart_from(space, ["--best.enabled=false"])


def test_values_reach_the_command_line_unchanged():
    options = [option("x", value) for value in (1e-05, 5, True, None, "float32")]
    assert options == ["--x=1e-05", "--x=5", "--x=true", "--x=null", "--x=float32"]
