"""Gradients at rounded and at noisy weights, against the same written out in float64; draws; what is refused."""

import collections
import contextlib

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from plain_trainer import plain_trainer
from small_data import small_data

from quail_lightning.callbacks import TrainingCheckpoint
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.empty import empty_model
from quail_lightning.objectives import GradientAscent, GradientDescent, KLRetention
from quail_lightning.quantization import load_quantizer
from quail_lightning.quantization.body_weights import body_weights
from quail_lightning.reference import LiveReference
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.perturbation import SEEN_IN_TRAINING, RandomFormats, WeightNoise
from quail_lightning.unlearning.sharpness import Sam
from quail_lightning.unlearning.stopping import lowest_nlls


class Steps(Callback):
    """Batch, gradients and weights at every optimizer step."""

    def __init__(self):
        self.gradients, self.weights, self.batches = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = dict(pl_module.model.named_parameters())
        self.gradients.append({name: p.grad.clone() for name, p in named.items() if p.grad is not None})
        self.weights.append({name: p.detach().clone() for name, p in named.items()})


def fit(target, corpus_folder, steps=1, **options):
    settings = {"forget": GradientAscent(), "retain": KLRetention(), "clip_norm": None, "schedule": "joint"}
    module = UnlearningModule(target=target, learning_rate=1e-3, **settings | options)
    data = small_data(corpus_folder, target, schedule=module.schedule)
    seen = Steps()
    trainer = plain_trainer(max_epochs=1, limit_train_batches=steps, precision="32-true", callbacks=[seen])
    trainer.fit(module, datamodule=data)
    return seen, module


def rounded_model(target, name):
    """A target with the weights of the quantizer's own copy, float64."""
    model = load_model(target, torch.float32)
    copy = load_quantizer(name).quantize(model)
    with torch.no_grad():
        for each in body_weights(model):
            each.parameter.copy_(copy.get_parameter(each.name))
    return model.double()


def test_forget_and_retain_gradients_are_taken_at_the_rounded_weights_against_the_equally_rounded_target(
    deep, corpus_folder
):
    perturbation = RandomFormats(["uniform4-tensor"])
    start = {name: p.detach().clone() for name, p in load_model(deep, torch.float32).named_parameters()}
    seen, _ = fit(deep, corpus_folder, perturbation=perturbation, alpha=2.0, steps=2)
    for name, value in seen.weights[0].items():
        assert torch.equal(value, start[name]), name  # the weights themselves are back when the step is made

    # the second step: the weights have moved, so that KL to the target is not 0
    model = load_model(deep, torch.float32)
    model.load_state_dict(seen.weights[1], strict=False)
    masters = {each.name: each.parameter for each in body_weights(model)}
    rounded = load_quantizer("uniform4-tensor").quantize(model)
    with torch.no_grad():
        for name, parameter in masters.items():
            parameter.copy_(rounded.get_parameter(name))
    model, target = model.double(), rounded_model(deep, "uniform4-tensor")
    forget, retain = seen.batches[1].forget.input_ids, seen.batches[1].retain.input_ids
    logs = torch.log_softmax(model(input_ids=forget).logits[:, :-1], -1)
    likelihood = logs.gather(-1, forget[:, 1:, None]).mean()
    ours = torch.log_softmax(model(input_ids=retain).logits[:, :-1], -1)
    with torch.no_grad():
        frozen = torch.log_softmax(target(input_ids=retain).logits[:, :-1], -1)
    divergence = (ours.exp() * (ours - frozen)).sum(-1).mean()
    (likelihood + 2.0 * divergence).backward()
    for name, parameter in model.named_parameters():
        found = seen.gradients[1][name].double()
        assert (found - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


def test_unrounded_steps_are_the_plain_ones(deep, corpus_folder):
    class NothingDrawn(RandomFormats):
        def drawn(self, step):
            return "none"

    plain, _ = fit(deep, corpus_folder, steps=2)
    seen, _ = fit(deep, corpus_folder, steps=2, perturbation=NothingDrawn(["none", "nf4"]))
    for name, value in plain.gradients[1].items():
        assert torch.equal(seen.gradients[1][name], value), name


def test_every_format_comes_once_in_a_round_in_another_order_with_another_seed():
    perturbation, orders = RandomFormats(), {}
    for seed in (1, 2):
        seed_everything(seed, verbose=False)
        drawn = [perturbation.drawn(step) for step in range(50)]
        assert drawn == [perturbation.drawn(step) for step in range(50)]
        for turn in range(10):
            assert collections.Counter(drawn[5 * turn : 5 * turn + 5]) == collections.Counter(SEEN_IN_TRAINING)
        orders[seed] = drawn
    assert orders[1] != orders[2]


def test_noise_has_the_share_of_each_matrix_s_norm_that_was_asked_for_and_is_gone_afterwards(deep):
    model = load_model(deep, torch.float32)
    before = {each.name: each.parameter.detach().clone() for each in body_weights(model)}
    shares = []
    for step in range(30):
        with WeightNoise(0.05, 0.2).applied(model, step) as rounded_to:
            assert rounded_to is None
            moved = [
                float((each.parameter.detach() - before[each.name]).norm() / before[each.name].norm())
                for each in body_weights(model)
            ]
        assert max(moved) - min(moved) < 1e-5  # one share for all
        shares.append(moved[0])
    assert 0.05 <= min(shares) < 0.09
    assert 0.16 < max(shares) <= 0.2001
    assert all(torch.equal(each.parameter, before[each.name]) for each in body_weights(model))


def test_forgetting_is_looked_at_in_every_format_and_the_lowest_nll_counts(deep, corpus_folder):
    formats = RandomFormats(["none", "fp4", "uniform4-tensor"])
    _, module = fit(deep, corpus_folder, perturbation=formats, stop=9.0)
    windows = module.trainer.datamodule.served.trained.forget
    found = []
    for name in (None, "fp4", "uniform4-tensor"):
        model = module.model if name is None else load_quantizer(name).quantize(module.model)
        logs = torch.log_softmax(model(input_ids=windows).logits[:, :-1].double(), -1)
        found.append(-logs.gather(-1, windows[:, 1:, None]).squeeze(-1).mean(-1))
    assert torch.allclose(lowest_nlls(module), torch.stack(found).amin(0), atol=1e-4)
    assert not torch.allclose(found[0], found[2], atol=1e-2)


@pytest.mark.parametrize(
    "perturbation", [RandomFormats(["none", "nf4", "fp4"]), WeightNoise()], ids=["formats", "noise"]
)
def test_a_run_that_dies_goes_on_with_the_draws_of_the_undisturbed_one(
    perturbation, tmp_path, deep, corpus_folder
):
    def run(folder, dies_after=None, ckpt_path=None):
        class Dies(Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if trainer.fit_loop.total_batch_idx + 1 == dies_after:
                    raise KeyboardInterrupt

        seed_everything(7, verbose=False)
        module = UnlearningModule(
            deep, GradientAscent(), KLRetention(), schedule="joint", learning_rate=1e-3, perturbation=perturbation
        )
        saves = TrainingCheckpoint(enabled=folder.name == "killed", every_n_steps=1)
        settings = {"max_epochs": 2, "precision": "32-true", "default_root_dir": folder}
        trainer = plain_trainer(callbacks=[saves, Dies()], **settings)
        data = small_data(corpus_folder, deep, schedule="joint")
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return {name: value.detach().clone() for name, value in module.model.named_parameters()}

    whole = run(tmp_path / "whole")
    run(tmp_path / "killed", dies_after=5)
    resumed = run(tmp_path / "killed", ckpt_path=str(last_checkpoint(tmp_path / "killed").folder))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_an_architecture_that_a_format_does_not_fit_is_refused_before_weights_are_loaded(deep):
    model = empty_model(load_model(deep, torch.float32).config, torch.float32)
    with pytest.raises(InputError, match="weights alone"):
        RandomFormats(["int8"]).check(model)
    with pytest.raises(InputError, match="no such precision"):
        RandomFormats(["nf3"]).check(model)


@pytest.mark.parametrize("formats", [[], ["none"], ["nf4", "nf4"]])
def test_no_format_and_formats_named_twice_are_refused(formats):
    with pytest.raises(InputError, match="each named once"):
        RandomFormats(formats)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.1), (-0.1, 0.1), (0.0, 0.0), (0.5, 1.0)])
def test_shares_that_are_none_are_refused(low, high):
    with pytest.raises(InputError, match="shares of a matrix's norm"):
        WeightNoise(low, high)


@pytest.mark.parametrize(
    "other", [{"sam": Sam(0.1)}, {"adapter": Adapter(rank=4, base="float32")}, {"reference": LiveReference()}]
)
def test_what_decides_the_weights_twice_is_refused(other, deep):
    with pytest.raises(InputError, match="RandomFormats"):
        UnlearningModule(deep, GradientAscent(), GradientDescent(), perturbation=RandomFormats(), **other)
