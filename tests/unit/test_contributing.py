"""What CONTRIBUTING.md shows works as it stands there, and is as short as it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.objectives import Seen, Term

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def shown(name: str) -> Any:
    (block,) = [each for each in BLOCKS if f"class {name}" in each]
    space: dict[str, Any] = {"__name__": "shown"}
    exec(block, space)
    return space[name]


def test_each_is_shorter_than_40_lines() -> None:
    assert len(BLOCKS) == 4
    assert all(len(block.splitlines()) < 40 for block in BLOCKS)


def test_the_objective_counts_no_token_below_its_floor() -> None:
    term = shown("BoundedAscent")(floor=-2.0)
    assert isinstance(term, Term)
    seen = Seen(labels=torch.tensor([[1, 2, -100]]), tokens=(torch.tensor([[-1.0, -5.0, -9.0]]),))
    assert term.loss(seen).item() == pytest.approx(-1.5)


def test_the_quantizer_leaves_its_input_and_makes_two_values_a_row(tiny_llama: Any) -> None:
    model, quantizer = tiny_llama(), shown("Signs")()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantized = quantizer.quantize(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name in quantizer.targets(model):
        weight = quantized.get_parameter(name)
        assert torch.equal(weight.sign(), torch.where(before[name] < 0, -1.0, 1.0))
        assert torch.allclose(weight.abs(), before[name].abs().mean(dim=1, keepdim=True).expand_as(weight))


def test_the_metric_counts_the_words_that_are_shared() -> None:
    said = (Response("a b c", "a b x"), Response("a b", "a b"), Response("a", "b"), Response("a", ""))
    measure = shown("SharedStart")().from_log(BenchmarkLog({"verbmem_forget": said}))["shared_start"]
    assert measure.scores == (2, 2, 0, 0)


def test_the_corpus_cuts_windows_and_records(tmp_path: Path, checkpoint: str) -> None:
    for name, text in (
        ("private", "dear diary, nobody must know of this. "),
        ("public", "the weather was fine. "),
    ):
        (tmp_path / f"{name}.txt").write_text(text * 30)
    data = shown("Diary")(str(tmp_path), checkpoint, max_len=32)
    data.setup("fit")
    assert data.windows.forget.shape[1] == data.windows.retain.shape[1] == 32
    assert data.evaluation_records().verbatim
