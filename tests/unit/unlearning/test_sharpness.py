"""SAM's forget gradient against the two gradients written out in float64, and what it leaves as it was."""

import copy
import math

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer
from small_data import small_data

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent, NegativePreference
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.sharpness import Sam, perturbed, rounded_perturbation

RHO = 0.5  # on some 20,000 weights of size 0.02 to 0.1: far enough for another gradient


class Gradients(Callback):
    """What each optimizer step is made with: gradients and weights."""

    def __init__(self):
        self.steps, self.weights = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = dict(pl_module.model.named_parameters())
        self.steps.append({name: p.grad.clone() for name, p in named.items() if p.grad is not None})
        self.weights.append({name: p.detach().clone() for name, p in named.items()})


def fit(checkpoint, corpus_folder, steps=1, windows=3, forget=GradientAscent, **options):
    """A few batches; what their optimizer steps were made with, and the trainer."""
    settings = {"retain": GradientDescent(), "clip_norm": None, "schedule": "joint"} | options
    unlearning = UnlearningModule(target=checkpoint, forget=forget(), **settings)
    data = small_data(corpus_folder, checkpoint, schedule=unlearning.schedule, batch_size=windows)
    seen = Gradients()
    trainer = plain_trainer(max_epochs=1, limit_train_batches=steps, precision="32-true", callbacks=[seen])
    trainer.fit(unlearning, datamodule=data)
    return seen, trainer, next(iter(data.train_dataloader()))


def gradient(model, ids, sign):
    """Of sign · NLL, by name."""
    model.zero_grad()
    logits = model(input_ids=ids).logits[:, :-1]
    likelihood = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).mean()
    (-sign * likelihood).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def norm(gradients):
    return math.sqrt(sum(value.square().sum().item() for value in gradients.values()))


def by_hand(checkpoint, batch, rho, factors=None):
    """Forget gradient of GA under SAM, and the retain gradient at the weights themselves; float64."""
    model = load_model(checkpoint, torch.float32).double().train()
    first = gradient(model, batch.forget.input_ids, -1)
    first = {name: value * (factors or {}).get(name, 1.0) for name, value in first.items()}
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter += rho * first[name] / norm(first)
    return gradient(moved, batch.forget.input_ids, -1), gradient(model, batch.retain.input_ids, 1), first


def assert_close(found, expected, within=1e-5):
    difference = {name: found[name].double() - expected[name] for name in expected}
    assert found.keys() == expected.keys()
    assert norm(difference) <= within * norm(expected)


@pytest.mark.parametrize("micro", [None, 1, 2])
def test_the_forget_gradient_is_taken_where_the_first_one_leads_and_the_retain_gradient_is_not(
    micro, checkpoint, corpus_folder
):
    seen, _, batch = fit(checkpoint, corpus_folder, alpha=2.0, sam=Sam(RHO), micro_batch_size=micro)
    forget, retain, first = by_hand(checkpoint, batch, RHO)
    assert_close(seen.steps[0], {name: forget[name] + 2.0 * retain[name] for name in forget})
    plain = {name: first[name] + 2.0 * retain[name] for name in forget}
    assert norm({name: forget[name] - first[name] for name in forget}) > 0.01 * norm(plain)  # SAM does something


def test_in_steps_of_their_own_the_forget_step_is_sams_and_the_retain_step_the_plain_one(
    checkpoint, corpus_folder
):
    seen, _, batch = fit(checkpoint, corpus_folder, schedule="alternate", sam=Sam(RHO), learning_rate=1e-30)
    forget, retain, _ = by_hand(checkpoint, batch, RHO)
    assert_close(seen.steps[0], forget)
    assert_close(seen.steps[1], retain)


def test_clipping_acts_on_the_gradient_of_the_step_alone(checkpoint, corpus_folder):
    options = {"schedule": "alternate", "sam": Sam(RHO)}
    seen, _, batch = fit(checkpoint, corpus_folder, clip_norm=0.01, **options)
    forget, _, _ = by_hand(checkpoint, batch, RHO)
    assert_close(seen.steps[0], {name: 0.01 / norm(forget) * value for name, value in forget.items()}, 1e-4)


def test_masked_heads_are_not_perturbed(checkpoint, corpus_folder):
    saliency = Saliency(75.0, "head")  # three of eleven: of a projection one head alone
    seen, trainer, batch = fit(checkpoint, corpus_folder, schedule="alternate", saliency=saliency, sam=Sam(RHO))
    module = trainer.lightning_module
    names = {parameter: name for name, parameter in module.model.named_parameters()}
    masks = {names[parameter]: mask.double() for parameter, mask in module.gradient_masks.items()}
    assert masks
    trained = {name: masks.get(name, 1.0) for name in seen.steps[0]}
    frozen = {name: 0.0 for name in names.values() if name not in trained}
    forget, _, _ = by_hand(checkpoint, batch, RHO, trained | frozen)
    assert_close(seen.steps[0], {name: forget[name] * factor for name, factor in trained.items()})


def test_the_weights_are_back_bit_for_bit_when_the_step_is_made(checkpoint, corpus_folder):
    seen, _, _ = fit(checkpoint, corpus_folder, sam=Sam(0.3))
    for name, value in load_model(checkpoint, torch.float32).named_parameters():
        assert torch.equal(seen.weights[0][name], value), name


def test_weights_come_back_bit_for_bit_after_an_error_inside():
    weight = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
    before, weight.grad = weight.detach().clone(), torch.tensor([3.0, 4.0])
    inside = []

    def fail():
        with perturbed(Sam(0.1), [weight], {}, sharded=False):
            inside.append((weight.detach().clone(), weight.grad))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    ((moved, held),) = inside
    torch.testing.assert_close(moved, torch.tensor([1.06, -2.92]))
    assert held is None
    assert torch.equal(weight, before)


def test_without_a_gradient_nothing_moves():
    weight = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
    weight.grad = torch.zeros(2)
    with perturbed(Sam(0.1), [weight], {}, sharded=False):
        assert weight.tolist() == [1.0, -3.0]


def test_with_rho_to_zero_it_is_the_run_without(checkpoint, corpus_folder):
    runs = [fit(checkpoint, corpus_folder, steps=2, sam=sam)[0] for sam in (Sam(1e-12), None)]
    for (_, found), (_, expected) in zip(*(sorted(run.weights[1].items()) for run in runs), strict=True):
        assert torch.equal(found, expected)


def test_losses_are_logged_at_the_weights_as_they_are(checkpoint, corpus_folder):
    found, plain = (fit(checkpoint, corpus_folder, sam=sam)[1].callback_metrics for sam in (Sam(RHO), None))
    for name in ("train/forget", "train/retain", "train/forget_nll", "train/retain_nll"):
        assert found[name] == plain[name]
    assert found["train/grad_norm"] != plain["train/grad_norm"]


def test_windows_at_their_goal_are_chosen_by_the_weights_as_they_are(checkpoint, corpus_folder):
    _, _, batch = fit(checkpoint, corpus_folder, windows=2)
    ids, model = batch.forget.input_ids, load_model(checkpoint, torch.float32)
    with torch.no_grad():
        likelihood = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
    nlls = sorted((-likelihood.mean((1, 2))).tolist())
    # one window is just there; where GA's perturbation leads, which makes the other likelier, neither is
    stop = nlls[1] - 1e-4
    assert nlls[0] < stop
    options = {"windows": 2, "schedule": "alternate", "stop": stop, "sam": Sam(RHO)}
    _, trainer, _ = fit(checkpoint, corpus_folder, **options)
    assert trainer.callback_metrics["train/at_goal"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("rho", [0.0, -0.1, math.nan, math.inf])
def test_a_rho_that_is_no_positive_number_is_refused(rho):
    with pytest.raises(InputError, match=r"model\.sam\.rho"):
        Sam(rho)


def test_a_perturbation_that_autocast_rounds_away_is_said():
    assert "32-true" in rounded_perturbation(Sam(), "bf16-mixed")[0]
    assert rounded_perturbation(Sam(), "32-true") == rounded_perturbation(None, "bf16-mixed") == []


@pytest.mark.parametrize("precision", ["bf16-stochastic", "bf16-nearest"])
def test_bfloat16_weights_which_would_not_feel_it_are_refused(precision):
    with pytest.raises(InputError, match="half an ulp"):
        UnlearningModule("x", NegativePreference(), weight_precision=precision, sam=Sam())
