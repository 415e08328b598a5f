"""Under FSDP2 (here with one process) a sharded evaluation finds and saves what one device finds and saves."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file
from torch import distributed

from quail_lightning.callbacks import BucketOverlap, ExportModel, KeepBest, QuantizedEvaluation
from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.utility import Utility
from quail_lightning.models import sharded
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.unlearning import UnlearningModule, fitting
from quail_lightning.unlearning.export import Export
from quail_lightning.unlearning.memory_plan import EvaluationMemory
from quail_lightning.unlearning.task_vector import TaskVector

pytestmark = pytest.mark.slow

SUITE = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)
PRECISIONS = ["nf4", "uniform4-tensor"]


@pytest.fixture(autouse=True)
def _alone():
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def fit(folder, corpus_folder, checkpoint, strategy, task_vector=None, **options):
    """One epoch with everything that makes copies of the model; the run's folder and its module."""
    torch.manual_seed(7)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    terms = GradientAscent(), GradientDescent()
    # norms of shards are summed in another order
    module = UnlearningModule(checkpoint, *terms, learning_rate=1e-3, clip_norm=None, task_vector=task_vector)
    settings = {"precisions": PRECISIONS, "suite": SUITE, "max_windows": 3, "retrained": checkpoint} | options
    callbacks = [
        QuantizedEvaluation(**settings),
        KeepBest(True, ["bf16", "nf4"], forget_nll=0.1),
        ExportModel(),
        BucketOverlap(bits=(4,), formats=("nf4",)),
    ]
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        strategy=strategy,
        precision="32-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        logger=TensorBoardLogger(folder, name="run", version="v"),
        callbacks=callbacks,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data)
    return folder / "run/v", module


@pytest.mark.parametrize(
    ("task_vector", "options"),
    [(None, {}), (TaskVector(0.5), {"precisions": ["nf4"], "retrained": None})],
    ids=["weights", "task vector"],
)
def test_figures_validation_and_models_are_those_of_one_device(
    task_vector, options, tmp_path, corpus_folder, checkpoint, monkeypatch
):
    expected, _ = fit(tmp_path / "one", corpus_folder, checkpoint, "auto", task_vector, **options)
    planned = []
    monkeypatch.setattr(fitting, "device_capacity", lambda trainer: 80)
    monkeypatch.setattr(fitting, "check_memory", lambda _, run, most: planned.append(run.evaluation_memory))
    monkeypatch.setattr(Export, "whole_copy", lambda *_: pytest.fail("the whole 16-bit copy was made"))
    found, module = fit(
        tmp_path / "shards",
        corpus_folder,
        checkpoint,
        ModelParallelStrategy(),
        task_vector,
        sharded=True,
        **options,
    )
    assert sharded.is_sharded(module.model)
    simulated = "uniform4-tensor" in options.get("precisions", PRECISIONS)
    assert planned == [EvaluationMemory(True, 16 if simulated else 4)]
    assert (found / "results.json").read_bytes() == (expected / "results.json").read_bytes()
    assert json.loads((found / "validation.json").read_text()) == json.loads(
        (expected / "validation.json").read_text()
    )
    for model in ("model", "best-epoch-1"):
        weights, shards = (load_file(folder / model / "model.safetensors") for folder in (expected, found))
        assert weights.keys() == shards.keys()
        for name, weight in weights.items():
            assert torch.equal(shards[name], weight), name
        texts = [(folder / model / "config.json").read_text() for folder in (expected, found)]
        assert texts[0] == texts[1]
        assert all(read_provenance(found / model)["texts_sha256"].values())


def refused(tmp_path, corpus_folder, checkpoint, strategy, monkeypatch, **options):
    monkeypatch.setattr(UnlearningModule, "configure_model", lambda _: pytest.fail("a weight was loaded"))
    with pytest.raises(InputError) as problem:
        fit(tmp_path, corpus_folder, checkpoint, strategy, **options)
    return str(problem.value)


def test_shards_without_fsdp2_are_refused(tmp_path, corpus_folder, checkpoint, monkeypatch):
    said = refused(tmp_path, corpus_folder, checkpoint, "auto", monkeypatch, sharded=True)
    assert "needs FSDP2" in said
    assert "trainer/fsdp.yaml" in said


def test_calibrated_precisions_are_refused_by_name(tmp_path, corpus_folder, checkpoint, monkeypatch):
    options = {"sharded": True, "precisions": ["nf4", "gptq4"]}
    said = refused(tmp_path, corpus_folder, checkpoint, ModelParallelStrategy(), monkeypatch, **options)
    assert "gptq4 need the whole 16-bit model" in said
    assert "quail evaluate" in said


def test_harness_tasks_are_refused(tmp_path, corpus_folder, checkpoint, monkeypatch):
    monkeypatch.setattr(Utility, "problems", lambda *_: [])
    suite = EvaluationSuite(utility=Utility(truthful=True))
    options = {"sharded": True, "suite": suite}
    said = refused(tmp_path, corpus_folder, checkpoint, ModelParallelStrategy(), monkeypatch, **options)
    assert "LM Evaluation Harness" in said


def evaluating(folder, corpus_folder, checkpoint, strategy, asked):
    """How an evaluation of nf4 is laid out."""
    module = UnlearningModule(checkpoint, GradientAscent(), GradientDescent())
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24)
    data.setup("fit")
    trainer = Trainer(accelerator="cpu", devices=1, strategy=strategy, logger=False, default_root_dir=folder)
    trainer.datamodule, module.trainer = data, trainer
    trainer.callbacks.append(QuantizedEvaluation(["nf4"], sharded=asked))
    return fitting.evaluation_memory(module.memory_options, trainer)


@pytest.mark.parametrize(
    ("capacity", "asked", "expected"),
    [
        (None, None, False),
        (None, True, True),
        (80, None, False),
        (80, True, True),
        (1.0001, None, True),
        (1.0001, False, False),
    ],
)
def test_shards_are_evaluated_where_asked_for_or_where_nothing_else_fits_the_device(
    capacity, asked, expected, tmp_path, corpus_folder, checkpoint, monkeypatch
):
    monkeypatch.setattr(fitting, "device_capacity", lambda trainer: capacity)
    found = evaluating(tmp_path, corpus_folder, checkpoint, ModelParallelStrategy(), asked)
    assert (found.sharded, found.bits) == (expected, 4)


def test_a_model_that_lies_whole_on_its_device_is_evaluated_whole(
    tmp_path, corpus_folder, checkpoint, monkeypatch
):
    monkeypatch.setattr(fitting, "device_capacity", lambda trainer: 1.0001)
    assert not evaluating(tmp_path, corpus_folder, checkpoint, "auto", None).sharded
