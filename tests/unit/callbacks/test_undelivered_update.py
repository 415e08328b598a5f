"""The end of a fit says which formats lose the update, and nothing where they deliver it."""

import warnings

import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.callbacks import ExportModel, QuantizedEvaluation, UndeliveredUpdate
from quail_lightning.callbacks import undelivered_update as its_module
from quail_lightning.data import MuseDataModule
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.quantization import quantized_linears
from quail_lightning.unlearning import UnlearningModule

SUITE = EvaluationSuite(batch_size=4, verbmem_new_tokens=4, knowmem_new_tokens=4, max_prompts=1, max_texts=2)
NAMES = ["uniform4-tensor", "int8"]  # int8's levels depend on activations


def fit(folder, corpus_folder, checkpoint, **options):
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    module = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), **options)
    trainer = plain_trainer(
        max_epochs=1,
        precision="32-true",
        callbacks=[UndeliveredUpdate(), QuantizedEvaluation(NAMES, suite=SUITE, max_windows=2), ExportModel()],
        default_root_dir=folder,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=data)
    return [str(each.message) for each in caught if "of this update" in str(each.message)]


def test_a_format_that_loses_the_update_is_named_with_the_remedy(tmp_path, corpus_folder, checkpoint):
    said = fit(tmp_path, corpus_folder, checkpoint, learning_rate=1e-5, weight_precision="bf16-nearest")
    assert len(said) == 1, "one line for uniform4-tensor, none for int8 and bf16"
    before, after = (load_model(name, torch.bfloat16) for name in (checkpoint, str(tmp_path / "model")))
    product = square = hidden = 0.0
    for (_, old), (_, new) in zip(quantized_linears(before), quantized_linears(after), strict=True):
        w, u = old.weight.detach().double(), new.weight.detach().double()
        steps = [each.abs().max() / 8 for each in (w, u)]
        first, second = ((x / s).round().clamp(-8, 7) * s for x, s in zip((w, u), steps, strict=True))
        product += float(((second - first) * (u - w)).sum())
        square += float(((u - w) ** 2).sum())
        hidden += float(((u - w) ** 2)[(w.abs() < steps[0] / 2) & (u.abs() < steps[0] / 2)].sum())
    share = 100 * max(0.0, product / square)
    assert 0 <= share < 50
    assert said[0].startswith(f"uniform4-tensor will deliver about {share:.0f} % of this update")
    assert f"{100 * hidden / square:.0f} % of it lies in weights that are 0" in said[0]
    assert "model.weight_precision: float32" in said[0]
    assert "a larger model.learning_rate" in said[0]


def test_nothing_is_said_where_the_update_arrives(tmp_path, corpus_folder, checkpoint):
    assert fit(tmp_path, corpus_folder, checkpoint, learning_rate=1e-2) == []


def test_what_goes_wrong_does_not_end_the_run(tmp_path, corpus_folder, checkpoint, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such luck")

    told = []
    monkeypatch.setattr(its_module, "compare", broken)
    monkeypatch.setattr(its_module, "rank_zero_info", told.append)
    assert fit(tmp_path, corpus_folder, checkpoint, learning_rate=1e-5) == []
    assert any("cannot be told: no such luck" in each for each in told)
    assert (tmp_path / "model/model.safetensors").exists()
    assert (tmp_path / "results.json").exists()


def test_a_large_model_is_pointed_to_analyze(tmp_path, corpus_folder, checkpoint, monkeypatch):
    told = []
    monkeypatch.setattr(its_module, "MOST_WEIGHTS", 10)
    monkeypatch.setattr(its_module, "rank_zero_info", told.append)
    assert fit(tmp_path, corpus_folder, checkpoint, learning_rate=1e-5) == []
    assert any(
        f"--reference {checkpoint} --model {tmp_path / 'model'} --formats uniform4-tensor" in e for e in told
    )


@pytest.mark.parametrize(
    ("precision", "rounding", "dtype", "named"),
    [
        ("float32", "nearest", "bfloat16", ["model.export_rounding: stochastic"]),
        ("float32", "stochastic", "bfloat16", []),
        ("float32", None, "float32", []),
        ("bf16-nearest", "stochastic", "bfloat16", ["model.weight_precision: float32"]),
    ],
)
def test_remedies_are_those_that_the_run_has_not_taken(checkpoint, precision, rounding, dtype, named):
    options = {"weight_precision": precision, "export_rounding": rounding, "export_dtype": dtype}
    said = its_module.remedies(UnlearningModule(checkpoint, GradientAscent(), **options))
    for each in ("model.export_rounding: stochastic", "model.weight_precision: float32"):
        assert (each in said) == (each in named)
