"""Every method's epoch against the same steps written out with plain torch on full logits."""

import copy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from plain_trainer import plain_trainer
from torch.nn.functional import kl_div, log_softmax, logsigmoid, one_hot

from quail_lightning.data import MuseDataModule
from quail_lightning.data.muse import Windows
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.objectives import (
    AdjustedDistillation,
    CrossEntropyUnlearning,
    GradientAscent,
    GradientDescent,
    InvertedHinge,
    KLRetention,
    LayerHinge,
    LogitHinge,
    Misdirection,
    NegativePreference,
    RepresentationRetention,
    SaturationImportance,
    SimilarLabels,
    SimplePreference,
)
from quail_lightning.reference import CachedStates, LiveReference
from quail_lightning.unlearning import UnlearningModule


def data_module(corpus_folder, checkpoint, schedule="alternate", **options):
    settings = {"max_len": 24, "batch_size": 2, "max_forget_windows": 6, "max_retain_windows": 7} | options
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, schedule=schedule, seed=0, **settings)


def module(checkpoint, *terms, **options):
    return UnlearningModule(checkpoint, *terms, **({"learning_rate": 1e-3} | options))


def fit(unlearning, data, epochs=1):
    trainer = plain_trainer(max_epochs=epochs, precision="32-true")
    trainer.fit(unlearning, datamodule=data)
    return {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}


# --- by hand -------------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    logits: torch.Tensor  # [batch, time − 1, vocabulary]
    layers: list[torch.Tensor]  # of each decoder layer [batch, time, width]


def outputs(model, ids):
    layers = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: layers.append(output)) for layer in model.model.layers
    ]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    for handle in handles:
        handle.remove()
    return Outputs(logits, layers)


def likelihoods(logits, ids):
    return log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]


def ascent(own, target, ids):
    return likelihoods(own.logits, ids).mean()


def descent(own, target, ids):
    return -likelihoods(own.logits, ids).mean()


def preference(beta):
    def loss(own, target, ids):
        ratio = likelihoods(own.logits, ids).sum(1) - likelihoods(target.logits, ids).sum(1)
        return (-2 / beta * logsigmoid(-beta * ratio)).mean()

    return loss


def preference_per_token(own, target, ids):
    ratio = likelihoods(own.logits, ids).mean(1) - likelihoods(target.logits, ids).mean(1)
    return (-2 / 3.0 * logsigmoid(-3.0 * ratio)).mean()


def simple_preference(own, target, ids):
    return (-2 / 1.5 * logsigmoid(-1.5 * likelihoods(own.logits, ids).mean(1) - 0.5)).mean()


def reweighted(own, target, ids):
    likelihood = likelihoods(own.logits, ids)
    p = likelihood.detach().exp()
    return (p**0.5 * (1 - p) * likelihood).mean()


def learned(strength, of="target"):
    """Cross-entropy towards a softmax whose true token's logit is lowered; a very sharp one is its argmax."""

    def loss(own, target, ids, sharpness=1.0):
        teacher = {"target": target, "own": own}[of].logits.detach()
        lowered = teacher - strength * one_hot(ids[:, 1:], teacher.shape[-1])
        return -((sharpness * lowered).softmax(-1) * own.logits.log_softmax(-1)).sum(-1).mean()

    return loss


def inverted(own, target, ids):
    probability = own.logits.softmax(-1)
    true = one_hot(ids[:, 1:], probability.shape[-1]).bool()
    return (1 + probability[true] - probability.masked_fill(true, -1).amax(-1).flatten()).mean()


def divergence(own, target, ids):
    """KL(p_unlearned ‖ p_target); torch's first argument is the second distribution."""
    terms = kl_div(target.logits.log_softmax(-1), own.logits.log_softmax(-1), reduction="none", log_target=True)
    return terms.sum(-1).mean()


def other_divergence(own, target, ids):
    terms = kl_div(own.logits.log_softmax(-1), target.logits.log_softmax(-1), reduction="none", log_target=True)
    return terms.sum(-1).mean()


def misdirection(own, target, ids):
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(7))
    return (own.layers[1] - 2.5 * drawn / drawn.norm()).square().mean()


def representation(own, target, ids):
    return (own.layers[1] - target.layers[1]).square().mean()


def logit_hinge(own, target, ids):
    return torch.relu(1.0 - (own.logits - target.logits).abs()).mean()


def layer_hinge(*numbers):
    def loss(own, target, ids):
        distances = [(own.layers[number] - target.layers[number]).abs() for number in numbers]
        return sum(torch.relu(0.25 - distance).mean() for distance in distances) / len(numbers)

    return loss


FORGET = {
    "GA": (GradientAscent(), ascent),
    "NPO": (NegativePreference(0.1), preference(0.1)),
    "NPO, β 0.5": (NegativePreference(0.5), preference(0.5)),
    "NPO per token": (NegativePreference(3.0, per_token=True), preference_per_token),
    "SimNPO": (SimplePreference(1.5, margin=0.5), simple_preference),
    "SatImp": (SaturationImportance(0.5, 1.0), reweighted),
    "CE-U": (CrossEntropyUnlearning(), learned(1e9, of="own")),
    "UNDIAL": (AdjustedDistillation(), learned(10)),
    "similar labels": (SimilarLabels(), partial(learned(1e9), sharpness=1e9)),
    "IHL": (InvertedHinge(), inverted),
    "RMU": (Misdirection(layer=1, coefficient=2.5, seed=7), misdirection),
    "RMU by share": (Misdirection(layer=0.5, coefficient=2.5, seed=7), misdirection),  # of three layers
}
RETAIN = {
    "none": (None, None),
    "GDR": (GradientDescent(), descent),
    "KLR": (KLRetention(), divergence),
    "KLR reversed": (KLRetention("target-unlearned"), other_divergence),
    "RMU": (RepresentationRetention(layer=1), representation),
}
HINGE = {
    "none": (None, None),
    "logits": (LogitHinge(2.0, dead_zone=0.0), logit_hinge),
    "layers": (LayerHinge(step=0.5, dead_zone=0.0), layer_hinge(0, 1, 2)),
    "layers 2 and 0": (LayerHinge([2, 0], step=0.5, dead_zone=0.0), layer_hinge(2, 0)),
}


def by_hand(checkpoint, data, schedule, losses, epochs=1, clip_norm=1.0, alpha=2.0, gamma=3.0):
    """L_forget + α · L_retain + γ · L_hinge, a target of its own, and torch's AdamW."""
    model, target = (load_model(checkpoint, torch.float32) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    forget, retain, hinge = losses

    def forget_loss(ids):
        with torch.no_grad():
            reference = outputs(target, ids)
        own = outputs(model, ids)
        loss = forget(own, reference, ids)
        return loss if hinge is None else loss + gamma * hinge(own, reference, ids)

    def retain_loss(ids):
        with torch.no_grad():
            reference = outputs(target, ids)
        return alpha * retain(outputs(model, ids), reference, ids)

    def step(loss, weight=None):
        optimizer.zero_grad()
        (loss / (weight or 1)).backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        if weight is not None:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= weight / ((1 + alpha) / 2)
        optimizer.step()

    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            sides = []
            if batch.forget is not None:
                sides.append((1.0, lambda batch=batch: forget_loss(batch.forget.input_ids)))
            if batch.retain is not None and retain is not None:
                sides.append((alpha, lambda batch=batch: retain_loss(batch.retain.input_ids)))
            if schedule == "joint":
                step(sum(side() for _, side in sides))
            else:
                for weight, side in sides:
                    step(side(), weight if retain is not None else None)
    return dict(model.named_parameters())


def assert_same_steps(found, expected, checkpoint, tolerance=0.02):
    """Differences in units of what was learned: AdamW makes whole steps even of gradients near rounding noise."""
    for name, start in load_model(checkpoint, torch.float32).named_parameters():
        learned, difference = (expected[name] - start).norm(), (found[name] - expected[name]).norm()
        assert difference <= tolerance * learned, f"{name}: {difference:.2e} of {learned:.2e}"


@pytest.mark.parametrize("schedule", ["alternate", "joint"])
@pytest.mark.parametrize(
    ("forget", "retain", "hinge"),
    [
        ("NPO", "none", "none"),
        ("NPO", "GDR", "none"),
        ("NPO", "KLR", "logits"),
        ("NPO, β 0.5", "KLR reversed", "layers"),
        ("NPO per token", "GDR", "none"),
        ("GA", "KLR", "none"),
        ("GA", "GDR", "layers"),
        ("GA", "RMU", "layers 2 and 0"),
        ("SimNPO", "GDR", "none"),
        ("SatImp", "GDR", "none"),
        ("CE-U", "none", "none"),
        ("UNDIAL", "none", "logits"),
        ("similar labels", "KLR", "none"),
        ("IHL", "none", "none"),
        ("IHL", "GDR", "logits"),
        ("RMU", "none", "none"),
        ("RMU", "RMU", "none"),
        ("RMU by share", "GDR", "logits"),
    ],
)
def test_an_epoch_equals_the_same_steps_written_out(forget, retain, hinge, schedule, corpus_folder, deep):
    data = data_module(corpus_folder, deep, schedule)
    terms, losses = zip(FORGET[forget], RETAIN[retain], HINGE[hinge], strict=True)
    clip_norm = 1.0 if schedule == "alternate" else None  # without it the losses' own scale decides
    unlearning = module(
        deep, *terms, schedule=schedule, alpha=2.0, gamma=3.0, clip_norm=clip_norm, reference=LiveReference()
    )
    found = fit(unlearning, data)
    expected = by_hand(deep, data, schedule, losses, clip_norm=clip_norm)
    assert_same_steps(found, expected, deep)


@pytest.mark.parametrize(("retain", "hinge"), [("KLR", "layers"), ("RMU", "logits")])
def test_a_cached_reference_belongs_to_the_window_that_is_trained(retain, hinge, corpus_folder, deep):
    """Two epochs of shuffled retain windows; 7 of them, so that the second epoch goes on within a pass."""
    data = data_module(corpus_folder, deep, "joint")
    terms, losses = zip(FORGET["NPO"], RETAIN[retain], HINGE[hinge], strict=True)
    unlearning = module(deep, *terms, schedule="joint", alpha=2.0, gamma=3.0, reference=CachedStates())
    found = fit(unlearning, data, epochs=2)
    assert_same_steps(found, by_hand(deep, data, "joint", losses, epochs=2), deep)
    order = [number for batch in data.train_dataloader() for number in batch.retain.window.tolist()]
    assert order != sorted(order)


class Masked(UnlearningModule):
    """Labels of which windows keep unequal parts; the third keeps none."""

    def _relabelled(self, batch):
        kept = torch.tensor([24, 3, 0, 9, 17, 5])[batch.window]
        return batch._replace(labels=batch.labels.masked_fill(torch.arange(24) < 24 - kept[:, None], -100))


@pytest.mark.parametrize("kind", [UnlearningModule, Masked])
@pytest.mark.parametrize("method", ["NPO", "IHL", "RMU"])
def test_accumulated_gradients_equal_the_whole_batchs(method, kind, corpus_folder, deep):
    """3 = 2 + 1: unequal parts; the sequences of NPO have their own weights in each."""
    terms = FORGET[method][0], KLRetention(), LayerHinge(step=0.5)
    options = {"schedule": "joint", "clip_norm": None, "learning_rate": 1e-3}
    whole, parts = (
        fit(
            kind(deep, *terms, micro_batch_size=size, **options),
            data_module(corpus_folder, deep, "joint", batch_size=3),
        )
        for size in (None, 2)
    )
    assert_same_steps(parts, whole, deep)


@pytest.mark.parametrize(("forget", "retain", "hinge"), [("RMU", "RMU", "none"), ("GA", "KLR", "layers")])
def test_gradient_checkpointing_changes_nothing_of_what_is_read_from_layers(
    forget, retain, hinge, corpus_folder, deep
):
    terms = FORGET[forget][0], RETAIN[retain][0], HINGE[hinge][0]
    plain, recomputed = (
        fit(module(deep, *terms, gradient_checkpointing=on), data_module(corpus_folder, deep))
        for on in (False, True)
    )
    for name, value in plain.items():
        assert torch.equal(recomputed[name], value), name
    start = dict(load_model(deep, torch.float32).named_parameters())
    assert not torch.equal(
        plain["model.layers.1.mlp.down_proj.weight"], start["model.layers.1.mlp.down_proj.weight"]
    )


def test_representation_misdirection_leaves_the_layers_behind_alone(corpus_folder, deep):
    found = fit(module(deep, FORGET["RMU"][0], RETAIN["RMU"][0]), data_module(corpus_folder, deep))
    start = dict(load_model(deep, torch.float32).named_parameters())
    moved = {name.split(".")[2] for name, value in found.items() if not torch.equal(value, start[name])}
    assert moved == {"weight", "0", "1"}  # the embedding and the first two layers


def test_the_logits_of_the_target_are_those_of_target_not_of_start(tmp_path, corpus_folder, deep):
    """Unlearning that goes on from another checkpoint still compares with the target."""
    moved = load_model(deep, torch.float32)
    with torch.no_grad():
        moved.model.layers[1].mlp.down_proj.weight.add_(0.05)
    folder = tmp_path / "moved"
    save_model(moved, load_tokenizer(deep), folder, {})
    data = data_module(corpus_folder, deep)
    unlearning = module(deep, NegativePreference(0.5), KLRetention(), start=str(folder))
    fit(unlearning, data)
    batch = next(iter(data.train_dataloader())).retain
    target = load_model(deep, torch.float32)
    with torch.no_grad():
        expected = target(input_ids=batch.input_ids).logits[:, :-1].flatten(0, 1)
    rows = unlearning.reference.outputs("retain", batch).rows(slice(0, len(expected)))
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


class WithoutRetainSet(MuseDataModule):
    """Data whose retain set came out empty."""

    def setup(self, stage):
        super().setup(stage)
        cut = Windows(self.served.windows.forget, self.served.windows.retain[:0])
        self.served = replace(self.served, windows=cut, trained=cut)


@pytest.mark.parametrize("retain", ["GDR", "KLR", "RMU"])
def test_a_retain_term_without_retain_windows_is_refused(retain, corpus_folder, deep):
    data = WithoutRetainSet(str(corpus_folder), tokenizer=deep, max_len=24, seed=0)
    unlearning = module(deep, GradientAscent(), RETAIN[retain][0])
    with pytest.raises(InputError, match=r"retain term, and the data has no retain set.*model\.retain to null"):
        fit(unlearning, data)
    assert unlearning.model is None


@pytest.mark.parametrize(
    ("terms", "given"),
    [
        ((Misdirection(layer=3),), "3"),
        ((GradientAscent(), RepresentationRetention(layer=-1)), "-1"),
        ((GradientAscent(), None, LayerHinge([0, 7], step=1.0)), "7"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_before_the_weights_are_loaded(terms, given, corpus_folder, deep):
    unlearning = module(deep, *terms)
    with pytest.raises(InputError, match=rf"no such decoder layer; got {given}\. Allowed: 0 … 2"):
        fit(unlearning, data_module(corpus_folder, deep))
    assert unlearning.model is None


def test_terms_are_not_changed_by_a_fit(corpus_folder, deep):
    """One object can serve several runs."""
    terms = [copy.deepcopy(FORGET["RMU"][0]), KLRetention(), LayerHinge(step=0.5)]
    before = [dict(vars(term)) for term in terms]
    fit(module(deep, *terms), data_module(corpus_folder, deep))
    assert [vars(term) for term in terms] == before
