"""What the export loses of small updates, and what it keeps when it rounds without bias."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from quail_lightning import analyze, quantize
from quail_lightning.callbacks import ExportModel, QuantizedEvaluation
from quail_lightning.data import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.checkpoints import load_precisions
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_config, load_model, read_provenance, save_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.quantization import quantized_linears
from quail_lightning.run.results import Estimate, read_results
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.task_vector import TaskVector

WINDOWS = 4


@pytest.fixture(scope="module")
def sixteen_bits(checkpoint, tmp_path_factory):
    """The target as a checkpoint of 16 bits."""
    folder = tmp_path_factory.mktemp("models") / "bf16"
    save_model(load_model(checkpoint, torch.bfloat16), load_tokenizer(checkpoint), folder, {})
    return str(folder)


def fit(folder, corpus_folder, target, precisions=("bf16",), **options):
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=target, max_len=24, max_forget_windows=WINDOWS)
    # a tenth of half a step of most weights, five times
    given = {"forget": GradientAscent(), "learning_rate": 2e-5} | options
    module = UnlearningModule(target, **given)
    suite = EvaluationSuite(batch_size=4, verbmem_new_tokens=4, knowmem_new_tokens=4)
    Trainer(
        max_epochs=3,
        accelerator="cpu",
        precision="32-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="run", version="v"),
        callbacks=[QuantizedEvaluation(list(precisions), 3, suite=suite), ExportModel()],
    ).fit(module, datamodule=data)
    return module, folder / "run/v", data.served.windows.forget


def nll(model, windows):
    return float(window_nlls(model, windows).mean())


def note(folder):
    return json.loads((folder / "results.json").read_text())["note"]


def kept(folder, precision="bf16"):
    return next(
        row for row in read_results(folder) if (row.model, row.precision) == ("unlearned", precision)
    ).metrics.get("kept_by_export")


def along_the_update(target, model):
    """Of the shift that arrives when both are cast to bfloat16, the share along the intended one, in float64."""
    before, after = load_model(target, torch.float32), load_model(model, torch.float32)
    product = intended = 0.0
    for (_, old), (_, new) in zip(quantized_linears(before), quantized_linears(after), strict=True):
        moved = new.weight.detach().double() - old.weight.detach().double()
        arrived = new.weight.detach().bfloat16().double() - old.weight.detach().bfloat16().double()
        product, intended = product + float((moved * arrived).sum()), intended + float((moved * moved).sum())
    return product / intended


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus_folder, sixteen_bits):
    """Export rounding → module, folder and forget windows of the same training."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        rounding: fit(folder / str(rounding), corpus_folder, sixteen_bits, export_rounding=rounding)
        for rounding in (None, "nearest")
    }


def test_without_bias_it_keeps_what_the_nearest_value_rolls_back(runs, sixteen_bits, capsys):
    target = load_model(sixteen_bits, torch.float32)
    shares = {}
    for rounding, (module, folder, windows) in runs.items():
        saved = load_model(str(folder / "model"), torch.float32)
        before, after, trained = (nll(each, windows) for each in (target, saved, module.model))
        shares[rounding] = (after - before) / (trained - before)
        assert kept(folder).value == pytest.approx(shares[rounding], abs=0.05)  # evaluated in bfloat16
    assert shares[None] == pytest.approx(1, abs=0.15), "stochastic, since the start has 16 bits"
    assert shares["nearest"] < 0.6
    assert "stochastic rounding) keeps" in note(runs[None][1])
    assert "THE CAST ROLLED IT BACK: set model.export_rounding: stochastic" in note(runs["nearest"][1])
    assert read_provenance(runs[None][1] / "model")["export_rounding"] == "stochastic"


def test_the_saved_weights_are_neighbours_of_the_trained_ones_and_those_evaluated(runs):
    module, folder, _ = runs[None]
    saved, evaluated = load_model(str(folder / "model"), torch.bfloat16), module.export.whole_copy(module.model)
    moved = 0
    for name, weight in module.model.named_parameters():
        found = saved.get_parameter(name)
        assert torch.equal(found, evaluated.get_parameter(name)), name
        step = torch.finfo(torch.bfloat16).eps * weight.abs().clamp(min=1e-30)
        assert ((found.float() - weight).abs() <= 2 * step).all(), name
        moved += int((found != weight.to(torch.bfloat16)).sum())
    assert moved > 1000


def test_a_float32_export_is_quantized_from_the_masters_like_the_saved_checkpoint(
    tmp_path, corpus_folder, sixteen_bits
):
    module, folder, windows = fit(
        tmp_path, corpus_folder, sixteen_bits, ["nf4", "bf16"], export_dtype="float32", retain=GradientDescent()
    )
    saved = folder / "model"
    assert load_config(str(saved)).dtype == torch.float32
    assert torch.equal(load_model(str(saved), torch.float32).lm_head.weight, module.model.lm_head.weight)
    rows = {row.precision: row.metrics for row in read_results(folder) if row.model == "unlearned"}
    assert list(rows) == ["fp32", "nf4", "bf16"]
    assert "kept_by_export" not in rows["fp32"], "the copy is what was trained"
    made = quantize(saved, "nf4", tmp_path / "nf4")
    assert read_provenance(made)["quantized"]["dtype"] == "float32"
    deployed = load_model(str(made), torch.float32)
    assert nll(deployed, windows) == pytest.approx(rows["nf4"]["nll_forget"].value, abs=1e-6)
    cast = load_model(str(saved), torch.bfloat16)
    assert nll(cast, windows) == pytest.approx(rows["bf16"]["nll_forget"].value, abs=1e-3)
    deliveries = analyze(sixteen_bits, saved).as_json()["delivered"]
    along = {each["format"]: each["along_the_update"] for each in deliveries}
    assert along["bf16"] == pytest.approx(along_the_update(sixteen_bits, str(saved)), rel=1e-5)
    assert along["bf16"] < 0.7
    assert "nf4" in along


def test_nothing_is_said_where_the_copy_is_no_cast_of_what_was_trained(tmp_path, corpus_folder, sixteen_bits):
    same = fit(tmp_path / "a", corpus_folder, sixteen_bits, weight_precision="bf16-nearest", learning_rate=1e-3)
    assert kept(same[1]) is None
    vector = {"forget": GradientDescent(), "task_vector": TaskVector(1.0)}
    assert kept(fit(tmp_path / "b", corpus_folder, sixteen_bits, **vector)[1]) is None
    assert isinstance(kept(fit(tmp_path / "c", corpus_folder, sixteen_bits, learning_rate=1e-3)[1]), Estimate)


def test_a_float32_start_is_cast_to_the_nearest(checkpoint):
    assert UnlearningModule(checkpoint, GradientAscent()).export_cast.rounding == "nearest"


def test_quantized_precisions_are_made_from_the_widest_named():
    found = {each.name: each.dtype for each in load_precisions(["bf16", "nf4", "fp32"], "paper")}
    assert found == {"bf16": torch.bfloat16, "nf4": torch.float32, "fp32": torch.float32}
    assert load_precisions(["nf4"], "paper")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(("base", "is_known"), [("bfloat16", True), ("nf4", False)])
def test_an_adapter_on_4_bits_is_not_compared_with_its_merged_copy(
    base, is_known, tmp_path, corpus_folder, sixteen_bits
):
    """Trained weights and copy would stand on two bases."""
    options = {"adapter": Adapter(rank=4, base=base), "learning_rate": 1e-3}
    _, run, _ = fit(tmp_path, corpus_folder, sixteen_bits, **options)
    (row,) = [row for row in read_results(run) if row.model == "unlearned"]
    assert ("kept_by_export" in row.metrics) == is_known
