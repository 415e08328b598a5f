"""Published figures stand beside a run's where, and only where, its setting is theirs."""

import json
from dataclasses import replace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from quail_lightning.callbacks import QuantizedEvaluation
from quail_lightning.callbacks.run_setting import run_setting
from quail_lightning.data import MuseDataModule
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.published import published_row, published_rows
from quail_lightning.objectives import GradientDescent, LogitHinge, NegativePreference
from quail_lightning.run.results import read_results
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.saliency import Saliency


@pytest.fixture
def parts(tmp_path, corpus_folder, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the reference cache is kept
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=2)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path, name="run", version="v"),
    )
    return trainer, data


def module(checkpoint, **options):
    return UnlearningModule(checkpoint, NegativePreference(0.2), GradientDescent(), alpha=3.0, **options)


def evaluation():
    suite = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)
    return QuantizedEvaluation([], suite=suite, max_windows=2, published="failure/news/npo_gdr")


def test_the_setting_is_read_from_module_data_and_suite(parts, checkpoint):
    trainer, data = parts
    data.setup("fit")
    trainer.datamodule = data
    unlearning = module(checkpoint, hinge=LogitHinge(0.5), saliency=Saliency(95.0), clip_norm=None)
    found = run_setting(unlearning, trainer, EvaluationSuite(protocol="published", max_texts=3))
    expected = {"method": "npo_gdr_quail_sure", "model.target": checkpoint, "model.alpha": 3.0}
    expected |= {"model.forget.beta": 0.2, "model.hinge.step": 0.5, "model.saliency.percentile": 95.0}
    expected |= {"model.clip_norm": None, "model.schedule": "alternate", "model.weight_precision": "float32"}
    expected |= {"data.max_len": 24, "data.max_forget_windows": 2, "trainer.max_epochs": 1}
    expected |= {"evaluation.suite.protocol": "published", "evaluation.suite.max_texts": 3}
    assert {option: found[option] for option in expected} == expected


def test_every_option_that_a_row_names_is_known(parts, checkpoint):
    trainer, data = parts
    data.setup("fit")
    trainer.datamodule = data
    known = run_setting(module(checkpoint), trainer, EvaluationSuite()).keys()
    rows = [published_row(name) for name in published_rows() if not name.startswith("quail/twitter/")]
    assert {option for row in rows for option in row.setting} <= known


def test_in_the_rows_setting_the_published_figures_stand_in_terminal_and_results(
    parts, checkpoint, tmp_path, capsys
):
    trainer, data = parts
    callback = evaluation()
    callback.published = replace(callback.published, setting={"method": "npo_gdr", "model.alpha": 3.0})
    trainer.callbacks.append(callback)
    trainer.fit(module(checkpoint), datamodule=data)
    assert "beside failure/news/npo_gdr" in capsys.readouterr().out
    written = json.loads((tmp_path / "run/v/results.json").read_text())["published"]
    assert written["row"] == "failure/news/npo_gdr"
    figures = {(each["model"], each["metric"]): each for each in written["figures"]}
    for row in read_results(tmp_path / "run/v"):
        here = row.metrics["knowmem_retain"].value
        published = {"target": 55.2, "unlearned": 38.6}[row.model]
        assert figures[row.model, "knowmem_retain"]["difference"] == pytest.approx(here - published)


def test_in_another_setting_none_is_shown_and_it_is_said_why(parts, checkpoint, tmp_path, capsys, caplog):
    trainer, data = parts
    trainer.callbacks.append(evaluation())
    with caplog.at_level("INFO"):
        trainer.fit(module(checkpoint), datamodule=data)
    assert "model.alpha is 3.0, there 1.0" in caplog.text
    assert "beside" not in capsys.readouterr().out
    assert "published" not in json.loads((tmp_path / "run/v/results.json").read_text())
