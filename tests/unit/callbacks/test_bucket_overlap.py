"""The callback logs what `quail analyze` says of the export, and changes nothing."""

import csv
import random
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quail_lightning.callbacks import BucketOverlap
from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.quantization import quantized_linears
from quail_lightning.unlearning import UnlearningModule


def run(folder, corpus_folder, checkpoint, callbacks, epochs=2):
    torch.manual_seed(7)
    random.seed(3)
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4)
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), learning_rate=1e-3)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision="bf16-mixed",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=[kind(folder, name="run", version="v") for kind in (TensorBoardLogger, CSVLogger)],
        callbacks=callbacks,
    )
    trainer.fit(unlearning, datamodule=data)
    events = EventAccumulator(str(folder / "run/v"))
    events.Reload()
    return unlearning, events


def test_other_loggers_get_the_scalars(finished):
    events = finished[1]
    with Path(events.path, "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["analysis/mean_change"]]
    logged = events.Scalars("analysis/mean_change")
    assert [(int(row["step"]), float(row["analysis/mean_change"])) for row in rows] == [
        (each.step, pytest.approx(each.value)) for each in logged
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_folder, checkpoint):
    callback = BucketOverlap(bits=[8, 4], formats=["uniform4-tensor"])
    return run(tmp_path_factory.mktemp("finished"), corpus_folder, checkpoint, [callback])


def test_scalars_stand_once_an_epoch_and_are_those_of_the_export(finished, checkpoint):
    unlearning, events = finished
    before = load_model(checkpoint, torch.bfloat16)
    exported = unlearning.export.whole_copy(unlearning.model)
    pairs = [
        (old.weight.detach().double(), new.weight.detach().double())
        for (_, old), (_, new) in zip(quantized_linears(before), quantized_linears(exported), strict=True)
    ]
    count = sum(old.numel() for old, _ in pairs)

    def last(name):
        values = events.Scalars(f"analysis/{name}")
        assert len(values) == 2
        return values[-1].value

    moved = sum((new - old).abs().sum() for old, new in pairs) / count
    assert last("mean_change") == pytest.approx(moved.item(), rel=1e-5)
    assert last("exact_matches") == pytest.approx((sum((new == old).sum() for old, new in pairs) / count).item())
    same = 0
    for old, new in pairs:
        step = (old.max() - old.min()) / 16
        same += (
            ((old - old.min()) / step).floor().clamp(0, 15) == ((new - old.min()) / step).floor().clamp(0, 15)
        ).sum()
    assert last("overlap/tensor/4bit") == pytest.approx((same / count).item())
    assert 0 < last("overlap/global/8bit") < 1
    assert -1 < last("uniform4-tensor/cosine") < 1


def test_the_layer_wise_figure_is_logged(finished):
    assert len(finished[1].Images("analysis/layers")) == 2


def test_training_and_random_states_are_untouched(tmp_path, corpus_folder, checkpoint):
    states, weights = [], []
    for number, callbacks in enumerate(([], [BucketOverlap(bits=[4], formats=["nf4", "nvfp4"])])):
        unlearning, _ = run(tmp_path / str(number), corpus_folder, checkpoint, callbacks, epochs=1)
        weights.append(unlearning.model.state_dict())
        states.append((torch.get_rng_state(), random.getstate()))
        assert unlearning.model.training
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


def test_the_last_epoch_is_logged_between_two_turns(tmp_path, corpus_folder, checkpoint):
    callback = BucketOverlap(bits=[4], formats=[], every_n_epochs=2)
    _, events = run(tmp_path, corpus_folder, checkpoint, [callback], epochs=3)
    assert len(events.Scalars("analysis/exact_matches")) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": [0]}, "1 … 16"),
        ({"every_n_epochs": 0}, "at least 1"),
        ({"formats": ["nf5"]}, "no such precision"),
        ({"formats": ["int8"]}, "weights alone"),
    ],
)
def test_impossible_options_are_refused_at_construction(options, words):
    with pytest.raises(InputError, match=words):
        BucketOverlap(**options)
