"""Forgetting that ends a window at a time."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer
from small_data import small_data
from torch.nn.functional import cross_entropy

from quail_lightning.callbacks import TrainingCheckpoint
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge, NegativePreference
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.stopping import ENOUGH, LEFT, Goals, goals_between, yardstick

FAR = 50.0  # nats a token that no window reaches


def data_module(corpus_folder, checkpoint, schedule="alternate", batch_size=2):
    options = {"schedule": schedule, "batch_size": batch_size, "max_forget_windows": 4}
    return small_data(corpus_folder, checkpoint, **options)


def module(checkpoint, **options):
    settings = {"retain": GradientDescent(), "learning_rate": 1e-3} | options
    return UnlearningModule(target=checkpoint, forget=GradientAscent(), **settings)


def fit(unlearning, data, epochs=1, callbacks=()):
    plain_trainer(max_epochs=epochs, precision="32-true", callbacks=list(callbacks)).fit(
        unlearning, datamodule=data
    )
    return {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}


def assert_same(found, expected, **tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.fixture(scope="module")
def other_checkpoint(checkpoint, tmp_path_factory):
    """Another model with the target's tokenizer."""
    other = load_model(checkpoint, torch.float32)
    with torch.no_grad():
        other.lm_head.weight.mul_(-0.5)
    folder = tmp_path_factory.mktemp("models") / "other"
    save_model(other, load_tokenizer(checkpoint), folder, {})
    return str(folder)


def start_of(checkpoint, corpus_folder):
    data = data_module(corpus_folder, checkpoint)
    data.prepare_data()
    data.setup("fit")
    return load_model(checkpoint, torch.float32), data.served.trained.forget


class Watch(Callback):
    """Optimizer steps, and what was logged."""

    def __init__(self):
        self.logged, self.gradients = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.model.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_the_gradient_is_that_of_the_open_windows_over_all_of_the_step(corpus_folder, checkpoint):
    """In float64, window by window, whatever the passes are."""
    model, windows = start_of(checkpoint, corpus_folder)
    nlls = window_nlls(model, windows)
    limit = float(nlls.sort().values[1:3].mean())  # two of the four windows lie above it
    wide = load_model(checkpoint, torch.float64)
    for window, nll in zip(windows, nlls, strict=True):
        if nll < limit:
            logits = wide(window[None]).logits[0, :-1]
            (-cross_entropy(logits, window[1:]) / len(windows)).backward()
    expected = {name: p.grad.float() for name, p in wide.named_parameters()}
    assert 0 < sum(nlls < limit) < len(nlls)
    alone = {"stop": limit, "clip_norm": None, "schedule": "joint", "retain": None}
    for micro in (None, 1, 3):
        watch, options = Watch(), alone | {"micro_batch_size": micro}
        data = data_module(corpus_folder, checkpoint, "joint", batch_size=4)
        fit(module(checkpoint, **options), data, callbacks=[watch])
        assert_same(watch.gradients[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("clip_norm", [None, 1e-3])
def test_a_step_s_size_follows_how_many_windows_are_open_also_after_clipping(clip_norm, corpus_folder, checkpoint):
    model, windows = start_of(checkpoint, corpus_folder)
    nlls = window_nlls(model, windows).sort().values
    norms = {}
    for open_windows, limit in ((4, FAR), (1, float(nlls[:2].mean()))):
        watch = Watch()
        data = data_module(corpus_folder, checkpoint, batch_size=4)
        fit(module(checkpoint, stop=limit, retain=None, clip_norm=clip_norm), data, callbacks=[watch])
        norms[open_windows] = float(torch.stack([g.norm() for g in watch.gradients[0].values()]).norm())
    if clip_norm:
        assert norms[4] == pytest.approx(clip_norm, rel=1e-3)
        assert norms[1] == pytest.approx(clip_norm / 4, rel=1e-3)
    else:
        assert norms[1] < norms[4]


@pytest.mark.parametrize("forget", [GradientAscent(), NegativePreference()])
def test_nothing_moves_and_training_ends_where_all_windows_are_there(forget, corpus_folder, checkpoint):
    unlearning = UnlearningModule(checkpoint, forget, hinge=LogitHinge(), stop=1e-3, learning_rate=1e-2)
    found = fit(unlearning, data_module(corpus_folder, checkpoint), epochs=5)
    assert unlearning.trainer.current_epoch == 1
    assert_same(found, dict(load_model(checkpoint, torch.float32).named_parameters()))


def test_the_retain_set_is_trained_on_while_nothing_is_left_to_forget(corpus_folder, checkpoint):
    found = fit(module(checkpoint, stop=1e-3), data_module(corpus_folder, checkpoint))
    before = dict(load_model(checkpoint, torch.float32).named_parameters())
    assert any(not torch.equal(found[name], value) for name, value in before.items())


def test_it_ends_after_the_epoch_in_which_little_is_left_and_no_window_is_driven_far(corpus_folder, checkpoint):
    model, windows = start_of(checkpoint, corpus_folder)
    goal = float(window_nlls(model, windows).max()) + 1
    ends = {}
    for stop in (goal, None):
        watch = Watch()
        unlearning = module(checkpoint, stop=stop, learning_rate=2e-3)
        fit(unlearning, data_module(corpus_folder, checkpoint), epochs=12, callbacks=[watch])
        ends[stop] = window_nlls(unlearning.model, windows)
        if stop is not None:
            assert unlearning.trainer.current_epoch < 12
            assert unlearning.goals.left <= LEFT
            assert unlearning.goals.left == pytest.approx(float((goal - ends[stop]).clamp(min=0).mean()) / goal)
            assert watch.logged[0]["train/at_goal"] == 0
            assert unlearning.goals.reached > 0
    assert float(ends[goal].mean()) >= (1 - LEFT) * goal
    assert float(ends[goal].mean()) < 0.7 * float(ends[None].mean())


def far_apart(checkpoint, corpus_folder, **options):
    """Steps of one window each, so large that an epoch drives the text far beyond its goals."""
    _, windows = start_of(checkpoint, corpus_folder)
    before = window_nlls(load_model(checkpoint, torch.float32), windows)
    settings = {"stop": float(before.max()) + 1, "learning_rate": 2e-2, "retain": None} | options
    return module(checkpoint, **settings)


def test_it_ends_inside_an_epoch_where_the_last_steps_and_then_all_windows_say_so(corpus_folder, checkpoint):
    watch = Watch()
    unlearning = far_apart(checkpoint, corpus_folder)
    fit(unlearning, data_module(corpus_folder, checkpoint, batch_size=1), epochs=3, callbacks=[watch])
    goals = unlearning.goals
    assert 0 < len(watch.gradients) < len(goals.nll) == len(watch.logged)  # there is no retain term
    assert goals.is_enough
    assert goals.has_ended
    _, windows = start_of(checkpoint, corpus_folder)
    torch.testing.assert_close(goals.seen, window_nlls(unlearning.model, windows), rtol=1e-5, atol=1e-6)


class Moved(Callback):
    """Whether each batch changed the weights."""

    def __init__(self):
        self.moved = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.before = pl_module.model.lm_head.weight.detach().clone()

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.moved.append(not torch.equal(self.before, pl_module.model.lm_head.weight))


@pytest.mark.parametrize("schedule", ["alternate", "epoch", "joint"])
def test_the_last_epoch_goes_on_with_the_retain_set_alone(schedule, corpus_folder, checkpoint):
    watch, data = Moved(), data_module(corpus_folder, checkpoint, schedule, batch_size=1)
    unlearning = far_apart(checkpoint, corpus_folder, schedule=schedule, retain=GradientDescent())
    fit(unlearning, data, epochs=9, callbacks=[watch])
    goals = unlearning.goals
    assert goals.has_ended
    last = watch.moved[-len(data.train_dataloader()) :]
    forget_steps = len(goals.nll)
    assert all(last[forget_steps:]) if schedule == "epoch" else all(last)


def test_goals_worked_by_hand():
    goals = Goals.of(torch.tensor([4.0, 4.0, 4.0, 4.0], dtype=torch.float64))
    for seen, left, enough in (
        ([3.7, 4, 3.7, 4], 0.0375, True),  # little is left
        ([2.5, 6, 2.5, 6], 0.1875, True),  # more, and the others make up for it
        ([2.5, 5, 2.5, 5], 0.1875, False),  # they do not
        ([1.0, 9, 1.0, 9], 0.375, False),  # nothing makes up for this
    ):
        goals.look(torch.tensor(seen, dtype=torch.float64))
        assert goals.left == pytest.approx(left)
        assert (goals.is_enough, goals.is_over) == (enough, enough)
    for window, expected in ((2, False), (1, True), (0, False)):  # of the last quarter alone, here one window
        visit = goals.visit(torch.tensor([window]))
        visit.open(torch.tensor([window]), torch.tensor([4.0 if window == 1 else 1.0]))
        visit.end()
        assert goals.may_be_enough is expected
        assert not goals.is_over
    goals.look(goals.seen)
    assert not goals.may_be_enough


def test_a_run_killed_before_the_look_inside_an_epoch_ends_where_the_undisturbed_run_does(
    corpus_folder, checkpoint
):
    def run(**options):
        unlearning = far_apart(checkpoint, corpus_folder)
        watch = Watch()
        callbacks = [TrainingCheckpoint(True, every_n_steps=1, keep=9), watch]
        trainer = plain_trainer(max_epochs=3, precision="32-true", callbacks=callbacks)
        trainer.fit(unlearning, datamodule=data_module(corpus_folder, checkpoint, batch_size=1), **options)
        weights = {name: p.detach().clone() for name, p in unlearning.model.named_parameters()}
        return trainer.current_epoch, len(watch.gradients), weights

    epoch, steps, weights = run()
    folders = sorted(last_checkpoint(Path()).folder.parent.glob("[!.]*"))
    assert len(folders) == 4 > steps >= 2
    for batches, folder in enumerate(folders, start=1):  # one is older than the look that ended the run
        again, further, found = run(ckpt_path=str(folder))
        assert (again, further) == (epoch, max(steps - batches, 0))
        assert_same(found, weights)


def test_retrained_is_most_of_the_way_from_the_target_to_that_model(corpus_folder, checkpoint, other_checkpoint):
    target, windows = start_of(checkpoint, corpus_folder)
    unlearning = module(checkpoint, stop="retrained", retrained=other_checkpoint)
    fit(unlearning, data_module(corpus_folder, checkpoint))
    before, unknown = (
        window_nlls(each, windows) for each in (target, load_model(other_checkpoint, torch.float32))
    )
    torch.testing.assert_close(unlearning.goals.nll, before + ENOUGH * (unknown - before), rtol=1e-5, atol=1e-6)
    assert goals_between(torch.tensor([0.5]), torch.tensor([3.0])).nll == pytest.approx(2.875)


def test_without_a_retrained_model_it_is_holdout_text_and_without_that_general_text(
    corpus_folder, checkpoint, caplog
):
    data = data_module(corpus_folder, checkpoint)
    with caplog.at_level(logging.INFO):
        unlearning = module(checkpoint, stop="retrained")
        fit(unlearning, data)
    assert "holdout text" in caplog.text
    by = yardstick(checkpoint, None, data)
    target, windows = start_of(checkpoint, corpus_folder)
    before = window_nlls(target, windows)
    expected = before + ENOUGH * (window_nlls(target, by.windows).mean() - before)
    torch.testing.assert_close(unlearning.goals.nll, expected, rtol=1e-5, atol=1e-6)
    object.__setattr__(data.served.records, "membership", None)
    by = yardstick(checkpoint, None, data)
    assert "general text" in by.said
    assert by.checkpoint == checkpoint
    assert by.windows.shape[1] == data.max_len


def test_an_epoch_that_leads_nowhere_is_named(corpus_folder, checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        nowhere = module(checkpoint, stop=FAR, learning_rate=1e-9)
        fit(nowhere, data_module(corpus_folder, checkpoint), epochs=2)
    assert caplog.text.count("brought the forget windows hardly nearer to their goals") == 1
    goals = Goals.of(torch.full((3,), 4.0, dtype=torch.float64))
    for seen in (1.0, 2.0):
        goals.seen = torch.full((3,), seen, dtype=torch.float64)
        assert goals.end_epoch() == ""
    assert "NLL 2 of 4 nats" in goals.end_epoch()


@pytest.mark.parametrize("stop", [0, -1.0, float("nan"), float("inf")])
def test_a_goal_that_is_no_nll_is_refused(stop, checkpoint):
    with pytest.raises(InputError, match=r"model.stop is an NLL.*retrained, or a positive number"):
        UnlearningModule(checkpoint, GradientAscent(), stop=stop)


def test_a_run_that_ended_stays_ended_when_it_is_gone_on_with(corpus_folder, checkpoint):
    def run(**options):
        unlearning = module(checkpoint, stop=1e-3)
        trainer = plain_trainer(max_epochs=5, precision="32-true", callbacks=[TrainingCheckpoint(True)])
        trainer.fit(unlearning, datamodule=data_module(corpus_folder, checkpoint), **options)
        return trainer.current_epoch, {name: p.detach().clone() for name, p in unlearning.model.named_parameters()}

    epoch, weights = run()
    again, found = run(ckpt_path=str(last_checkpoint(Path()).folder))
    assert (epoch, again) == (1, 1)
    assert_same(found, weights)


def test_an_adversary_is_refused(checkpoint):
    with pytest.raises(InputError, match=r"steps against an adversary do not see.*model.stop to null"):
        UnlearningModule(checkpoint, GradientAscent(), stop=3.0, adversary=LatentAdversary(layers=(0,)))


def test_a_forget_term_that_learns_is_refused(checkpoint):
    with pytest.raises(InputError, match=r"GradientDescent as forget term lowers it.*model.stop to null"):
        UnlearningModule(checkpoint, GradientDescent(), stop=3.0)


def test_a_retrained_model_that_is_not_whole_is_refused_before_anything_is_loaded(
    tmp_path, corpus_folder, checkpoint
):
    (tmp_path / "broken").mkdir()
    unlearning = module(checkpoint, stop="retrained", retrained=str(tmp_path / "broken"))
    with pytest.raises(InputError, match="broken"):
        fit(unlearning, data_module(corpus_folder, checkpoint))
    assert unlearning.model is None
