"""A run that was cut short and gone on with ends where the undisturbed one ends, to the last bit."""

import copy
import os
import random
import shutil
import stat

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from plain_trainer import plain_trainer
from safetensors.torch import load_file, save_file

from quail_lightning.callbacks import TrainingCheckpoint, training_checkpoint
from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge, MeasuredStep
from quail_lightning.reference import LiveReference
from quail_lightning.run.training_state import SafetensorsIO, last_checkpoint, write_manifest
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.ridge_edit import RidgeEdit
from quail_lightning.unlearning.saliency import Saliency


class Killed(Exception):
    pass


class KillAfter(Callback):
    """Dies in the place of SIGKILL: nothing that the run does afterwards may write a checkpoint."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_start(self, *_):
        if not self.left:
            raise Killed
        self.left -= 1


class DrawAtRandom(Callback):
    """Stands for stochastic rounding and dropout: the weights depend on every generator's state."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        shift = torch.rand(()).item() + random.random() + np.random.rand()
        with torch.no_grad():
            next(each for each in pl_module.parameters() if each.requires_grad).add_(shift * 1e-3)


@pytest.fixture(autouse=True)
def _work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(
    folder,
    corpus_folder,
    checkpoint,
    batches=None,
    ckpt_path=None,
    callbacks=(),
    epochs=2,
    max_steps=-1,
    enabled=True,
    **model,
):
    """Three batches an epoch; a checkpoint after every second and at an epoch's end."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    settings = {"retain": GradientDescent(), "learning_rate": 1e-3} | model
    unlearning = UnlearningModule(checkpoint, GradientAscent(), **settings)
    data = MuseDataModule(
        str(corpus_folder),
        tokenizer=checkpoint,
        max_len=24,
        batch_size=2,
        max_forget_windows=6,
        max_retain_windows=8,
        schedule=unlearning.schedule,
    )
    own = [TrainingCheckpoint(enabled, every_n_steps=2, keep=9), *callbacks]
    if batches is not None:
        own.insert(0, KillAfter(batches))
    trainer = plain_trainer(
        max_epochs=epochs,
        max_steps=max_steps,
        precision="32-true",
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="", version="run"),
        callbacks=own,
    )
    if batches is not None:
        with pytest.raises(Killed):
            trainer.fit(unlearning, datamodule=data, ckpt_path=ckpt_path)
        return None
    trainer.fit(unlearning, datamodule=data, ckpt_path=ckpt_path)
    return {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}


METHODS = {
    "alternate": {},
    "joint": {"schedule": "joint", "hinge": LogitHinge()},
    "epoch": {"schedule": "epoch"},
    "live": {"hinge": LogitHinge(), "reference": LiveReference()},
    "stochastic": {"weight_precision": "bf16-stochastic", "adam_states": "8bit"},
    "offloaded": {"adam_states": "offloaded"},
    "saliency": {"saliency": Saliency(percentile=50)},
    "edited": {"trainable": ["*.mlp.down_proj.weight"], "ridge_edit": RidgeEdit()},
    "stop": {"stop": 7.5},  # some windows are there before the run is cut short
    "measured": {"hinge": LogitHinge(step=MeasuredStep(precision="uniform4-tensor"))},
    "adapter": {"adapter": Adapter(rank=4, base="float32", dropout=0.2), "hinge": LogitHinge()},
    "adapter on 4 bits": {"adapter": Adapter(rank=4, base="nf4"), "adam_states": "8bit"},
}


# killed after the checkpoint inside the first epoch, at its end, inside the second
@pytest.mark.parametrize(
    ("name", "batches"), [("alternate", 2), ("alternate", 3), *((name, 4) for name in METHODS)]
)
def test_a_resumed_run_ends_with_the_undisturbed_runs_weights(name, batches, tmp_path, corpus_folder, checkpoint):
    def fit(folder, **options):
        # terms keep what was measured: each run has its own
        method = copy.deepcopy(METHODS[name])
        return run(tmp_path / folder, corpus_folder, checkpoint, callbacks=[DrawAtRandom()], **method, **options)

    expected = fit("whole")
    fit("cut", batches=batches)
    found = fit("cut", ckpt_path=last_checkpoint(tmp_path / "cut/run").folder)
    for parameter, value in expected.items():
        assert torch.equal(found[parameter], value), parameter


def test_an_adapters_checkpoint_holds_the_adapter_alone(tmp_path, corpus_folder, checkpoint):
    adapter = Adapter(rank=4)
    weights = run(tmp_path, corpus_folder, checkpoint, epochs=1, adapter=adapter)
    folder = last_checkpoint(tmp_path / "run").folder
    trained = {f"model.{name}" for name in weights if "lora_" in name}
    state = SafetensorsIO().load_checkpoint(folder)
    assert state["state_dict"].keys() == trained
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    count = sum(value.numel() for name, value in weights.items() if "lora_" in name)
    assert 12 * count <= size < 14 * count  # weights and two moments in float32, with headers
    with pytest.raises(InputError, match="adapter"):
        run(tmp_path, corpus_folder, checkpoint, ckpt_path=folder, adapter=Adapter(rank=8))


def test_an_adapter_goes_on_only_on_the_weights_that_it_started_from(tmp_path, corpus_folder, checkpoint):
    start = shutil.copytree(checkpoint, tmp_path / "start")
    options = {"adapter": Adapter(rank=4), "start": str(start)}
    run(tmp_path, corpus_folder, checkpoint, batches=4, **options)
    folder = last_checkpoint(tmp_path / "run").folder
    weights = load_file(start / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    (start / "provenance.json").unlink()
    with pytest.raises(InputError, match="base_sha256"):
        run(tmp_path, corpus_folder, checkpoint, ckpt_path=folder, **options)


def test_a_resumed_run_trains_with_the_step_that_was_measured_first(tmp_path, corpus_folder, checkpoint):
    hinge = LogitHinge(step=MeasuredStep(precision="uniform4-tensor"))
    run(tmp_path, corpus_folder, checkpoint, batches=2, hinge=hinge, saliency=Saliency(percentile=50))
    folder = last_checkpoint(tmp_path / "run").folder
    path = folder / "state.json"
    written = repr(hinge.step)
    assert written in path.read_text()
    path.write_text(path.read_text().replace(written, "0.125"))  # as other hardware might have rounded it
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    again = LogitHinge(step=MeasuredStep(precision="uniform4-tensor"))
    run(tmp_path, corpus_folder, checkpoint, ckpt_path=folder, hinge=again, saliency=Saliency(percentile=50))
    assert again.step == 0.125


def test_another_learning_rate_is_refused_and_more_epochs_are_not(tmp_path, corpus_folder, checkpoint):
    run(tmp_path, corpus_folder, checkpoint, batches=4)
    folder = last_checkpoint(tmp_path / "run").folder
    with pytest.raises(InputError, match=r"learning_rate: 0\.001 then, 0\.002 now"):
        run(tmp_path, corpus_folder, checkpoint, ckpt_path=folder, learning_rate=2e-3)
    run(tmp_path, corpus_folder, checkpoint, ckpt_path=folder, epochs=3)
    assert last_checkpoint(tmp_path / "run").step == 9


# killed inside an epoch, at its end, inside the next, in which the limit lies; two optimizer steps a batch
@pytest.mark.parametrize("batches", [2, 3, 4])
def test_a_run_of_so_many_steps_goes_on_to_the_same_end(batches, tmp_path, corpus_folder, checkpoint):
    def fit(folder, **options):
        return run(
            tmp_path / folder, corpus_folder, checkpoint, callbacks=[DrawAtRandom()], max_steps=10, **options
        )

    expected = fit("whole")
    assert last_checkpoint(tmp_path / "whole/run").step == 5
    fit("cut", batches=batches)
    found = fit("cut", ckpt_path=last_checkpoint(tmp_path / "cut/run").folder)
    for parameter, value in expected.items():
        assert torch.equal(found[parameter], value), parameter


@pytest.mark.parametrize("first", [6, 7])  # at the first epoch's end; inside the second
def test_more_steps_end_where_they_would_have_ended_at_once(first, tmp_path, corpus_folder, checkpoint):
    def fit(folder, **options):
        return run(tmp_path / folder, corpus_folder, checkpoint, callbacks=[DrawAtRandom()], **options)

    expected = fit("whole")
    fit("cut", max_steps=first)
    folder = last_checkpoint(tmp_path / "cut/run").folder
    if first == 7:
        with pytest.raises(InputError, match=r"max_steps has ended.*got 7.*Raise it"):
            fit("cut", max_steps=7, ckpt_path=folder)
    found = fit("cut", max_steps=10, ckpt_path=folder)
    assert last_checkpoint(tmp_path / "cut/run").step == 5
    found = fit("cut", ckpt_path=last_checkpoint(tmp_path / "cut/run").folder)
    for parameter, value in expected.items():
        assert torch.equal(found[parameter], value), parameter


@pytest.mark.parametrize("option", ["every_n_steps", "keep"])
def test_counts_below_one_are_refused(option):
    with pytest.raises(InputError, match=rf"checkpoint\.{option} must be at least 1; got 0"):
        TrainingCheckpoint(**{option: 0})


def test_without_checkpoints_nothing_is_written(tmp_path, corpus_folder, checkpoint):
    run(tmp_path, corpus_folder, checkpoint, enabled=False)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_checkpoint_is_its_owners_alone_and_keeps_no_secret(tmp_path, corpus_folder, checkpoint, monkeypatch):
    described = training_checkpoint.origin
    monkeypatch.setattr(training_checkpoint, "origin", lambda *given: described(*given) | {"hub_token": "s3cret"})
    before = os.umask(0)
    try:
        run(tmp_path, corpus_folder, checkpoint, epochs=1)
    finally:
        os.umask(before)
    kept = last_checkpoint(tmp_path / "run").folder
    for path in (kept.parent, kept, *kept.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert "s3cret" not in (kept / "run.json").read_text()
    # another token is no other run
    monkeypatch.setattr(training_checkpoint, "origin", lambda *given: described(*given) | {"hub_token": "an0ther"})
    run(tmp_path, corpus_folder, checkpoint, epochs=2, ckpt_path=kept)
