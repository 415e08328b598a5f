"""Sophia's update and curvature against float64 arithmetic, and that a run goes on with both."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer
from small_data import small_data

from quail_lightning.callbacks import TrainingCheckpoint
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.sophia import Sophia, SophiaG

BETAS = (0.9, 0.95)


@pytest.mark.parametrize("estimate", ["sampled", "gradient"])
def test_the_update_is_the_papers(estimate):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=6)
    weight = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    optimizer = SophiaG([weight], Sophia(0.5, estimate), lr=0.01, weight_decay=0.3, betas=BETAS)
    mean, curvature, clipped = np.zeros(6), np.zeros(6), []
    for number in range(6):
        gradient = rng.normal(size=6) * 10.0 ** -np.arange(6)
        if estimate == "gradient":
            curvature = 0.95 * curvature + 0.05 * 5120 * gradient**2
        elif number % 3 == 0:
            sampled = 0.1 * rng.normal(size=6)
            weight.grad = torch.from_numpy(sampled)
            optimizer.update_hessian(40)
            curvature = 0.95 * curvature + 0.05 * 40 * sampled**2
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        ratio = mean / (0.5 * curvature)
        clipped += [*(abs(ratio) > 1)]
        theta = theta * (1 - 0.01 * 0.3) - 0.01 * np.clip(ratio, -1, 1)
        np.testing.assert_allclose(weight.detach(), theta, rtol=1e-12)
    assert 0.1 < np.mean(clipped) < 0.9  # both kinds of step were seen


def test_a_weight_without_curvature_moves_by_the_learning_rate_and_one_without_gradient_not():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = SophiaG([weight], Sophia(), lr=0.25, weight_decay=0.0, betas=BETAS)
    weight.grad = torch.tensor([1e-3, -1e-3, 0.0])
    optimizer.step()
    assert weight.tolist() == [0.75, 1.25, 1.0]


class Seen(Callback):
    """h after the estimates of each step; may die before a batch."""

    def __init__(self, dies_before=None):
        self.hessians, self.dies_before = [], dies_before

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == self.dies_before:
            raise KeyboardInterrupt

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.model.named_parameters()
        states = {name: optimizer.state.get(parameter, {}) for name, parameter in named}
        self.hessians.append({name: state["hessian"].clone() for name, state in states.items() if state})


def fit(tmp_path, corpus_folder, checkpoint, sophia, ckpt_path=None, saves=False, dies_before=None, **options):
    settings = {"schedule": "joint", "learning_rate": 1e-3, "betas": BETAS} | options
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), sophia=sophia, **settings)
    data = small_data(corpus_folder, checkpoint, schedule=unlearning.schedule, batch_size=3)
    seen = Seen(dies_before)
    trainer = plain_trainer(
        max_epochs=2,
        precision="32-true",
        callbacks=[TrainingCheckpoint(enabled=saves, every_n_steps=1), seen],
        default_root_dir=tmp_path,
    )
    try:
        trainer.fit(unlearning, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit:  # what Lightning makes of an interrupt
        assert dies_before is not None
    weights = {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}
    return seen.hessians, weights, next(iter(data.train_dataloader()))


def norm(tensors):
    return math.sqrt(sum(value.double().square().sum().item() for value in tensors))


@pytest.mark.parametrize("micro", [None, 2])
def test_the_curvature_is_of_tokens_drawn_from_the_model_on_both_sets(micro, tmp_path, corpus_folder, checkpoint):
    sophia = Sophia(seed=5)
    hessians, _, batch = fit(tmp_path, corpus_folder, checkpoint, sophia, micro_batch_size=micro)
    model = load_model(checkpoint, torch.float32).double()
    generator = torch.Generator().manual_seed(5 * 1_000_003)
    sampled, count = 0.0, 0
    for ids in (batch.forget.input_ids, batch.retain.input_ids):
        draws = torch.randint(2**24, ids.shape, generator=generator)[:, 1:].double() / 2**24
        likelihoods = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        tokens = (likelihoods.detach().exp().cumsum(-1) <= draws[..., None]).sum(-1)
        sampled = sampled - likelihoods.gather(-1, tokens[..., None]).sum()
        count += tokens.numel()
    (sampled / count).backward()
    expected = {name: 0.05 * count * p.grad.square() for name, p in model.named_parameters()}
    assert norm(hessians[0][name] - expected[name] for name in expected) <= 1e-4 * norm(expected.values())


def test_it_is_estimated_in_every_nth_batch_for_every_step_of_it(tmp_path, corpus_folder, checkpoint):
    options = {"schedule": "alternate"}
    hessians, _, _ = fit(tmp_path, corpus_folder, checkpoint, Sophia(every_n_steps=2), **options)
    sums = [norm(each.values()) for each in hessians]
    changed = [True, *(before != after for before, after in pairwise(sums))]
    assert changed == [True, True, False, False, True, True, False, False]  # 4 batches, 2 steps each


def test_souls_estimate_draws_nothing(tmp_path, corpus_folder, checkpoint):
    hessians, weights, _ = fit(tmp_path, corpus_folder, checkpoint, Sophia(estimate="gradient"))
    assert hessians[0] == {}
    assert len(hessians[1]) == len(weights)


@pytest.mark.parametrize("estimate", ["sampled", "gradient"])
def test_a_resumed_run_ends_where_the_undisturbed_one_does(
    estimate, tmp_path, corpus_folder, checkpoint, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = (corpus_folder, checkpoint, Sophia(estimate=estimate, every_n_steps=2))
    _, expected, _ = fit(tmp_path / "whole", *given)
    fit(tmp_path / "cut", *given, saves=True, dies_before=1)
    last = last_checkpoint(tmp_path / "cut")
    assert last.step == 1
    hessians, found, _ = fit(tmp_path / "cut", *given, ckpt_path=str(last.folder), saves=True)
    assert len(hessians) == 3
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("options", "named"), [({"rho": 0.0}, "rho"), ({"every_n_steps": 0}, "every_n_steps")])
def test_numbers_outside_their_range_are_refused(options, named):
    with pytest.raises(InputError, match=rf"model\.sophia\.{named}"):
        Sophia(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_precision": "bf16-stochastic"},
        {"weight_precision": "bf16-nearest"},
        {"adam_states": "8bit"},
        {"adam_states": "offloaded"},
    ],
)
def test_what_is_made_for_adamw_is_refused(options):
    (given,) = options.values()
    with pytest.raises(InputError, match=given):
        UnlearningModule("x", GradientAscent(), sophia=Sophia(), **options)
