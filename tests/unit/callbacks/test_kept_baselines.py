"""What is measured of target and retrained model is measured once for all runs that share a folder."""

import shutil
import stat

import pytest
import torch
from lightning.pytorch import Trainer

from quail_lightning.callbacks import QuantizedEvaluation
from quail_lightning.data import MuseDataModule
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.run.results import read_results
from quail_lightning.storage.locks import released_afterwards
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.export import Export

SUITE = EvaluationSuite(batch_size=4, verbmem_new_tokens=8, knowmem_new_tokens=4)


@pytest.fixture
def loaded(monkeypatch):
    """Names of the checkpoints that were loaded to be evaluated."""
    names = []
    original = Export.checkpoint_to_evaluate

    def load(self, checkpoint):
        names.append(checkpoint)
        return original(self, checkpoint)

    monkeypatch.setattr(Export, "checkpoint_to_evaluate", load)
    return names


def run(folder, corpus_folder, target, **options):
    torch.manual_seed(7)
    settings = {"precisions": ["uniform4-tensor"], "suite": SUITE, "max_windows": 3} | options
    data = MuseDataModule(str(corpus_folder), tokenizer=target, max_len=24, max_forget_windows=4)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="bf16-mixed",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        logger=False,
        callbacks=[QuantizedEvaluation(**settings)],
        default_root_dir=folder,
    )
    with released_afterwards():
        trainer.fit(UnlearningModule(target, GradientAscent(), GradientDescent()), datamodule=data)
    return [row for row in read_results(folder) if row.model != "unlearned"]


def test_a_second_run_loads_neither_and_gives_the_same_figures_and_responses(
    tmp_path, corpus_folder, checkpoint, loaded
):
    shared = {"baselines": str(tmp_path / "baselines"), "retrained": checkpoint}
    plain = run(tmp_path / "plain", corpus_folder, checkpoint, retrained=checkpoint)
    first = run(tmp_path / "first", corpus_folder, checkpoint, **shared)
    # the retrained model is the same checkpoint, whose figures are there already
    assert loaded == [checkpoint] * 3
    second = run(tmp_path / "second", corpus_folder, checkpoint, **shared)
    assert loaded == [checkpoint] * 3
    assert plain == first == second
    said = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n / "responses").rglob("log.json"))
        for n in ("plain", "second")
    ]
    assert said[0] == said[1]
    for part in ("verbmem_f", "privleak"):
        place = f"responses/target-bf16/{part}/log.json"
        assert (tmp_path / "plain" / place).read_text() == (tmp_path / "second" / place).read_text()
    assert all(stat.S_IMODE(path.stat().st_mode) in (0o600, 0o700) for path in (tmp_path / "baselines").rglob("*"))


def test_other_settings_texts_or_weights_are_measured_anew(tmp_path, corpus_folder, checkpoint, loaded):
    shared = {"baselines": str(tmp_path / "baselines")}
    run(tmp_path / "first", corpus_folder, checkpoint, **shared)
    run(tmp_path / "windows", corpus_folder, checkpoint, max_windows=2, **shared)
    run(tmp_path / "format", corpus_folder, checkpoint, precisions=["nf4"], **shared)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + "\n")
    run(tmp_path / "tokenizer", corpus_folder, str(other), **shared)
    assert loaded == [checkpoint] * 3 + [str(other)]
