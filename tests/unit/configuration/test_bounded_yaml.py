"""YAML of bounded size and depth, wherever a config is read."""

import re
import time

import pytest
import yaml

from quail_lightning.cli import main
from quail_lightning.configuration.bounded_yaml import MAX_BYTES, load_yaml
from quail_lightning.configuration.files import find_config
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import load_benchmark
from quail_lightning.quantization import load_quantizer

LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{y}: &{y} [*{x}, *{x}]\n" for x, y in zip("abcdefghijklmnopqrstuvw", "bcdefghijklmnopqrstuvwx", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join(['*' + ('a' if n == 0 else f'm{n - 1}')] * 9)}]}}\n" for n in range(9)
)
BROKEN = {
    "billion laughs": (LAUGHS, "more than 20,000 values"),
    "billion merges": (MERGES, "more than 20,000 values"),
    "lists in lists": ("a: " + "[" * 100_000, "nest"),  # libyaml may say so first
    "closed lists in lists": ("a: " + "[" * 900 + "]" * 900, "nested deeper than 50"),
    "mappings in mappings": ("a: " + "{a: " * 900 + "1" + "}" * 900, "nested deeper than 50"),
    "block lists in lists": ("- " * 900 + "1", "nested deeper than 50"),
    "an alias of itself": ("a: &a [*a]", "stands inside what it stands for"),
    "many values": ("a: [" + "1," * 30_000 + "]", "more than 20,000 values"),
    "a long file": ("# " + "x" * MAX_BYTES + "\na: 1", "longer than 1,000,000"),
    "a long number": ("a: " + "1" * 5_000, "digits"),
    "no such day": ("a: 2020-02-31", "day"),
    "an object": ("a: !!python/object/apply:os.system [id]", "python/object/apply"),
    "a module": ("a: !!python/module:os ''", "python/module"),
    "an unknown alias": ("a: *b", "undefined alias"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_breaks_a_bound_is_refused_at_once_wherever_it_is_read(kind, tmp_path, monkeypatch, capsys) -> None:
    text, words = BROKEN[kind]
    monkeypatch.chdir(tmp_path)
    for part in ("quantizer", "benchmark"):
        (tmp_path / "configs" / part).mkdir(parents=True)
        (tmp_path / f"configs/{part}/mine.yaml").write_text(text)
    (tmp_path / "mine.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=words):
        load_yaml(text)
    for load in (load_quantizer, load_benchmark):
        with pytest.raises(InputError, match=words):
            load("mine")
    for verb in ("fit", "finetune", "evaluate"):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--config", "mine.yaml"])
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert re.match(rf"error: .*mine\.yaml[\s\S]*{words}", said)
        assert len(said) < 1_000
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("kind", ["billion laughs", "closed lists in lists", "an alias of itself"])
def test_a_single_value_is_bounded_too(kind, tmp_path, monkeypatch, capsys) -> None:
    """Text at an option is YAML of its own, and so is a file that an option names."""
    monkeypatch.chdir(tmp_path)
    text = "{" + BROKEN[kind][0].replace("\n", ", ") + "}"
    (tmp_path / "value.yaml").write_text(BROKEN[kind][0])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"model": {"learning_rate": text}}))
    for given in (["--config=mine.yaml"], ["--model.hinge=value.yaml"], [f"--model.hinge={text}"]):
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config=quickstart.yaml", *given, "--print_config"])
        assert ended.value.code == 2
        assert len(capsys.readouterr().err) < 20_000


def test_anchors_serve_as_they_do() -> None:
    text = "a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 4}\nc: [*a, *a]\nd: &d text\ne: *d\n"
    assert load_yaml(text) == yaml.safe_load(text)


def test_every_shipped_config_is_within_the_bounds() -> None:
    from quail_lightning.configuration.files import shipped_names

    for name in shipped_names():
        find_config(name)
