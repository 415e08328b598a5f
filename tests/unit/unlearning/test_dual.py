"""The dual variable by hand: its steps, what it weighs, and that a run goes on with it."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer
from small_data import small_data

from quail_lightning.callbacks import TrainingCheckpoint
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientDescent, MarginFlattening
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.dual import Dual, Multiplier, dual_step
from quail_lightning.unlearning.provenance import description


def test_it_grows_by_what_is_above_the_bound_and_stops_at_zero():
    assert dual_step(2.0, 0.5, loss=1.5, epsilon=1.0) == 2.25
    assert dual_step(2.0, 0.5, loss=0.0, epsilon=1.0) == 1.5
    assert dual_step(2.0, 5.0, loss=0.0, epsilon=1.0) == 0.0


def values(dual, start=1.0):
    """λ after each of two epochs' batches with retain losses 3, none, 1; the epoch ends with the third."""
    multiplier = Multiplier(start)
    losses = (3.0, None, 1.0)
    return [
        multiplier.after_batch(dual, loss, epoch, number == 2)
        for epoch in range(2)
        for number, loss in enumerate(losses)
    ]


def test_after_each_step_or_from_the_epochs_mean():
    assert values(Dual(0.5, 0.1)) == pytest.approx([1.25, 1.25, 1.3, 1.55, 1.55, 1.6])
    assert values(Dual(0.5, 0.1, "epoch")) == pytest.approx([1.0, 1.0, 1.15, 1.15, 1.15, 1.3])


def test_it_stands_still_in_the_warm_up():
    assert values(Dual(0.5, 0.1, warmup_epochs=1)) == pytest.approx([1.0, 1.0, 1.0, 1.25, 1.25, 1.3])
    assert values(Dual(0.5, 0.1, "epoch", warmup_epochs=2)) == pytest.approx([1.0] * 5 + [1.15])


class Steps(Callback):
    """Each batch's logged figures; may die after some."""

    def __init__(self, dies_after=None):
        self.seen, self.dies_after = [], dies_after

    def on_train_batch_end(self, trainer, *_):
        logged = trainer.callback_metrics.items()
        self.seen.append({name.removeprefix("train/"): float(value) for name, value in logged})

    def on_train_batch_start(self, *_):
        if len(self.seen) == self.dies_after:
            raise KeyboardInterrupt


def fit(tmp_path, corpus_folder, checkpoint, dual, dies_after=None, ckpt_path=None, saves=False, **options):
    settings = {"alpha": 0.5, "schedule": "joint", "learning_rate": 1e-3} | options
    unlearning = UnlearningModule(
        target=checkpoint, forget=MarginFlattening(), retain=GradientDescent(), dual=dual, **settings
    )
    data = small_data(corpus_folder, checkpoint, schedule=unlearning.schedule)
    steps = Steps(dies_after)
    trainer = plain_trainer(
        max_epochs=2,
        precision="32-true",
        callbacks=[TrainingCheckpoint(enabled=saves, every_n_steps=1), steps],
        default_root_dir=tmp_path,
    )
    try:
        trainer.fit(unlearning, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit:  # what Lightning makes of an interrupt
        assert dies_after is not None
    return steps.seen, unlearning


def test_a_run_logs_it_and_weighs_with_it(tmp_path, corpus_folder, checkpoint):
    seen, module = fit(tmp_path, corpus_folder, checkpoint, Dual(1.0, 0.25))
    value = 0.5
    for step in seen:
        assert step["total"] == pytest.approx(step["forget"] + value * step["retain"])
        value += 0.25 * (step["retain"] - 1.0)
        assert step["dual"] == pytest.approx(value)
    assert module.current_weights == (1.0, pytest.approx(value), 1.0)
    assert description(module)["dual_value"] == pytest.approx(value)
    assert description(module)["weights"]["retain"] == 0.5  # the run's own setting


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_a_bound_that_is_broken_keeps_more_than_one_that_is_not(schedule, tmp_path, corpus_folder, checkpoint):
    strict, loose = (
        fit(tmp_path, corpus_folder, checkpoint, Dual(bound, 5.0), schedule=schedule)[0][-1]
        for bound in (0.1, 100.0)
    )
    assert loose["dual"] == 0 < strict["dual"]
    assert strict["retain_nll"] < loose["retain_nll"]
    assert strict["forget"] > loose["forget"]


@pytest.mark.parametrize("update", ["step", "epoch"])
@pytest.mark.parametrize("batches", [2, 3])  # inside the first epoch, and at its end
def test_a_resumed_run_goes_on_with_it(update, batches, tmp_path, corpus_folder, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (corpus_folder, checkpoint, Dual(1.0, 0.25, update))
    whole, undisturbed = fit(tmp_path / "whole", *given)
    fit(tmp_path / "cut", *given, dies_after=batches, saves=True)
    found = last_checkpoint(tmp_path / "cut")
    rest, resumed = fit(tmp_path / "cut", *given, ckpt_path=str(found.folder), saves=True)
    assert [step["dual"] for step in rest] == [step["dual"] for step in whole[batches:]]
    assert resumed.multiplier == undisturbed.multiplier
    assert len({step["dual"] for step in whole}) > 1
    for one, two in zip(resumed.model.parameters(), undisturbed.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": 1.0, "step_size": 0.0}, "step_size"),
        ({"epsilon": 1.0, "warmup_epochs": -1}, "warmup_epochs"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, named):
    with pytest.raises(InputError, match=f"model.dual.{named}"):
        Dual(**options)


def test_a_bound_on_nothing_and_a_shared_weight_are_refused():
    with pytest.raises(InputError, match="no retain term"):
        UnlearningModule("x", MarginFlattening(), dual=Dual(1.0))
    with pytest.raises(InputError, match="additive"):
        UnlearningModule("x", MarginFlattening(), GradientDescent(), weighting="convex", dual=Dual(1.0))
