"""What CONTRIBUTING.md shows works as it stands there, and is as short as it says."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from quail_lightning import evaluate
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log
from quail_lightning.evaluation.metrics import METRICS
from quail_lightning.objectives import Term, TermInputs
from quail_lightning.quantization import load_quantizer

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"\n## An? (\w+)\n.*?```python\n(.*?)```", TEXT, flags=re.DOTALL))


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Every block as a module of its own in one installed package, and the configs that name its classes."""
    folder = tmp_path / "site-packages/my_package"
    folder.mkdir(parents=True)
    for name, block in BLOCKS.items():
        (folder / f"{name}.py").write_text(block)
    (folder / "__init__.py").write_text("".join(f"from my_package.{name} import *\n" for name in BLOCKS))
    for name in ("quantizer/signs", "benchmark/diary"):
        path = tmp_path / f"configs/{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"class_path: my_package.{path.stem.title()}\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.chdir(tmp_path)
    yield import_module("my_package")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def diary(tmp_path: Path) -> str:
    texts = {"private": "dear diary, nobody must know of this. ", "public": "the weather was fine. "}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text * 30)
    return str(tmp_path)


def test_each_is_shorter_than_40_lines() -> None:
    assert list(BLOCKS) == ["objective", "quantizer", "metric", "corpus"]
    assert TEXT.count("```python") == len(BLOCKS)
    assert all(len(block.splitlines()) < 40 for block in BLOCKS.values())


def test_the_objective_that_a_config_names_counts_no_token_below_its_floor(my_package: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--term", type=Term)
    given = {"class_path": "my_package.BoundedAscent", "init_args": {"floor": -2.0}}
    term = parser.instantiate_classes(parser.parse_object({"term": given})).term
    assert isinstance(term, my_package.BoundedAscent)
    seen = TermInputs(labels=torch.tensor([[1, 2, -100]]), tokens=(torch.tensor([[-1.0, -5.0, -9.0]]),))
    assert term.loss(seen).item() == pytest.approx(-1.5)


def test_the_quantizer_leaves_its_input_and_makes_two_values_a_row(my_package: Any, tiny_llama: Any) -> None:
    model, quantizer = tiny_llama(), load_quantizer("signs")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantized = quantizer.quantize(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name in quantizer.targets(model):
        weight = quantized.get_parameter(name)
        assert torch.equal(weight.sign(), torch.where(before[name] < 0, -1.0, 1.0))
        assert torch.allclose(weight.abs(), before[name].abs().mean(dim=1, keepdim=True).expand_as(weight))


def test_the_metric_counts_the_words_that_are_shared(my_package: Any) -> None:
    said = (Response("a b c", "a b x"), Response("a b", "a b"), Response("a", "b"), Response("a", ""))
    measure = my_package.SharedStart().from_log(BenchmarkLog({"verbmem_forget": said}))["shared_start"]
    assert measure.scores == (2, 2, 0, 0)


def test_the_corpus_cuts_windows_and_records(my_package: Any, diary: str, checkpoint: str) -> None:
    data = my_package.Diary(diary, checkpoint, max_len=32)
    data.setup("fit")
    assert data.served.windows.forget.shape[1] == data.served.windows.retain.shape[1] == 32
    assert data.served.records.verbatim


def test_a_model_is_evaluated_on_the_corpus_at_the_precision_by_the_metric(
    my_package: Any, diary: str, checkpoint: str
) -> None:
    METRICS.append(my_package.SharedStart())
    try:
        data = {"folder": diary, "max_len": 64}
        found = evaluate(checkpoint, "diary", data=data, precisions=("bf16", "signs"), device="cpu")
        assert [row.precision for row in found.rows] == ["bf16", "signs"]
        for row, details in zip(found.rows, found.details, strict=True):
            again = METRICS[-1].from_log(read_log(Path(details["log"])))
            assert again["shared_start"] == row.metrics["shared_start"]
        plain, signs = (row.metrics["nll_forget"].value for row in found.rows)
        assert plain != signs
    finally:
        METRICS.pop()
