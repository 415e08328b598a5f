"""What arrives of the update by layer: against plain arithmetic, and said plainly where it cannot be known."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from fabricated_run import fabricate

from quail_lightning.report.finished_run import FinishedRun, read_run
from quail_lightning.report.layer_delivery import delivered_by_layer
from quail_lightning.report.page import as_html

UPDATE = 2e-5  # below half a bfloat16 step of a weight of 0.02


@pytest.fixture
def models(tmp_path, tiny_llama):
    """Target and unlearned model in float32; the last layer did not move."""
    target = tiny_llama()
    target.save_pretrained(tmp_path / "target")
    model = tiny_llama()
    model.load_state_dict(target.state_dict())
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in model.model.layers[:-1]:
            for parameter in layer.parameters():
                parameter += UPDATE * torch.randn_like(parameter)
    return target, model


@pytest.fixture
def run(tmp_path: Path, models) -> FinishedRun:
    """With both on disk."""
    folder = fabricate(tmp_path / "run")
    models[1].save_pretrained(folder / "model")
    note(folder, target=str(tmp_path / "target"), target_sha256=digests(tmp_path / "target"))
    note(folder, weights_sha256=digests(folder / "model"))
    return read_run(folder)


def digests(folder: Path) -> dict[str, str]:
    return {"model.safetensors": sha256((folder / "model.safetensors").read_bytes()).hexdigest()}


def note(folder: Path, **facts: object) -> None:
    path = folder / "model/provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def by_hand(target, model, number):
    """Share and cosine of what a cast to bfloat16 delivers, in double precision."""
    moved, arrived = [], []
    after = dict(model.named_parameters())
    for name, before in target.named_parameters():
        if f"layers.{number}." in name and "proj" in name:
            moved.append((after[name].double() - before.double()).flatten())
            arrived.append((after[name].bfloat16().double() - before.bfloat16().double()).flatten())
    delta, there = torch.cat(moved).detach(), torch.cat(arrived).detach()
    return (there @ delta / (delta @ delta)).item(), (there @ delta / (there.norm() * delta.norm())).item()


def test_a_layers_share_and_cosine_are_those_of_plain_arithmetic(run, models) -> None:
    grid = delivered_by_layer(run).grid
    assert grid is not None
    assert grid.columns == ["bf16: arrives", "bf16: cosine", "nf4: arrives", "nf4: cosine"]
    share, cosine = by_hand(*models, 0)
    first = grid.lines[0]
    assert first.heading == "layer 0"
    assert float(first.cells[0].value.rstrip(" %")) == pytest.approx(100 * share, abs=0.06)
    assert float(first.cells[1].value) == pytest.approx(cosine, abs=6e-4)
    assert cosine < 0.6, "most of so small an update is rounded away, a few weights jump"


def test_a_layer_that_did_not_move_says_so(run, models) -> None:
    grid = delivered_by_layer(run).grid
    *_, last, whole = grid.lines
    assert last.heading == f"layer {len(models[0].model.layers) - 1}"
    assert {(cell.value, cell.remark) for cell in last.cells} == {("–", "nothing moved")}
    assert whole.heading == "all layers"
    assert "–" not in [cell.value for cell in whole.cells]


def test_the_page_has_the_figure_its_alternative_and_the_table(run) -> None:
    page = as_html([run])
    assert "What arrives of the update" in page
    assert 'aria-label="Line chart: arrives, %, of the update, by layer and format; the same figures stand' in page
    assert 'aria-label="Line chart: cosine, of the update, by layer and format' in page
    assert "<caption>What arrives of the update, by layer; n is of weights</caption>" in page
    without = as_html([run], with_layers=False)
    assert "Left out, as asked." in without
    assert "Line chart: cosine" not in without


def test_a_target_that_is_not_there_is_named(run, tmp_path) -> None:
    (tmp_path / "target").rename(tmp_path / "elsewhere")
    found = delivered_by_layer(run)
    assert found.grid is None
    assert found.notes == [
        f"Not measured: the target {tmp_path / 'target'} is no folder here. Make the report where it is one; a "
        "relative path is meant from where the run was started."
    ]
    assert found.notes[0] in as_html([run])


def test_another_target_of_the_same_name_is_not_compared_with(run, tmp_path, tiny_llama) -> None:
    torch.manual_seed(5)
    other = tiny_llama()
    with torch.no_grad():
        other.lm_head.weight += 1
    other.save_pretrained(tmp_path / "target")
    found = delivered_by_layer(read_run(run.folder))
    assert found.grid is None
    assert found.notes == [
        f"Not measured: the target {tmp_path / 'target'} holds other weights than the run noted."
    ]


def test_a_model_that_was_changed_since_is_not_shown(run) -> None:
    weights = run.model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    found = delivered_by_layer(run)
    assert found.grid is None
    assert "is not what was saved there" in found.notes[0]


def test_formats_whose_levels_depend_on_more_than_the_weights_are_named(tmp_path, models) -> None:
    from fabricated_run import rows

    evaluated = [row for row in rows() if row.precision == "bf16"]
    evaluated += [type(row)(row.model, other, row.metrics, row.epoch)
                  for row in evaluated for other in ("int8", "prune30+nf4")]  # fmt: skip
    folder = fabricate(tmp_path / "other", evaluated=evaluated)
    models[1].save_pretrained(folder / "model")
    note(folder, target=str(tmp_path / "target"), target_sha256={}, weights_sha256=digests(folder / "model"))
    found = delivered_by_layer(read_run(folder))
    assert found.grid is not None
    assert found.grid.columns == ["bf16: arrives", "bf16: cosine"]
    assert found.notes == [
        "int8: left out, since its levels do not follow from the weights alone.",
        "prune30+nf4: left out, since an attack changes the weights first.",
    ]
