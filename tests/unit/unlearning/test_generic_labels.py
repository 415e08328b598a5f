"""Generic labels against a reinforced copy trained by hand, and the step that learns them."""

import copy

import pytest
import torch
from plain_trainer import plain_trainer
from torch.nn.functional import cross_entropy

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import masked
from quail_lightning.models.activations import activations
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.generic_labels import GenericLabels

HOW = GenericLabels(epochs=3, learning_rate=3e-3, strength=5.0)


@pytest.fixture
def windows():
    return torch.randint(3, 280, (5, 20), generator=torch.Generator().manual_seed(6))


def nll(model, ids, labels):
    return cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def reinforced(target, windows, epochs, learning_rate, batches=None):
    """Trained further on all windows at once, or on these batches of them in every epoch."""
    model = copy.deepcopy(target).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for epoch in range(epochs):
        for ids in [windows] if batches is None else batches[epoch]:
            optimizer.zero_grad()
            nll(model, ids, ids).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def plain_labels(target, stronger, windows, strength):
    with torch.no_grad():
        v, v_reinforced = (model(input_ids=windows).logits for model in (target, stronger))
    chosen = (v - strength * torch.relu(v_reinforced - v)).argmax(-1)
    return torch.cat([windows[:, :1], chosen[:, :-1]], dim=1)


@pytest.mark.parametrize("strength", [0.5, 5.0])
def test_labels_are_the_argmax_of_the_generic_logits(strength, windows, checkpoint):
    target = load_model(checkpoint, torch.float32)
    how = GenericLabels(HOW.epochs, HOW.learning_rate, strength)
    found = how.labels(target, windows, activations, torch.float32, batch_size=5)
    stronger = reinforced(target, windows, HOW.epochs, HOW.learning_rate)
    assert torch.equal(found, plain_labels(target, stronger, windows, strength))
    assert nll(stronger, windows, windows) < nll(target, windows, windows) - 1
    with torch.no_grad():
        unguided = target(input_ids=windows).logits.argmax(-1)[:, :-1]
    assert (found[:, 1:] != unguided).any()  # the reinforced copy has its say
    assert (found[:, 1:] != windows[:, 1:]).float().mean() > 0.9  # and against the text


def test_the_copy_is_trained_on_every_window_once_an_epoch(windows, checkpoint):
    """5 windows in batches of 2, in an order of its own an epoch."""
    target, seen = load_model(checkpoint, torch.float32), []

    def noted(model, input_ids, layers=(), perturbations=None):
        if model.training:
            seen.append(input_ids)
        return activations(model, input_ids, layers, perturbations)

    found = HOW.labels(target, windows, noted, torch.float32, batch_size=2)
    assert [len(ids) for ids in seen] == [2, 2, 1] * 3
    epochs = [seen[start : start + 3] for start in (0, 3, 6)]
    for batches in epochs:
        assert sorted(torch.cat(batches).tolist()) == sorted(windows.tolist())
    stronger = reinforced(target, windows, HOW.epochs, HOW.learning_rate, epochs)
    assert torch.equal(found, plain_labels(target, stronger, windows, HOW.strength))


def test_the_target_stays_and_the_first_labels_are_the_windows_own(windows, checkpoint):
    target = load_model(checkpoint, torch.float32)
    before = {name: value.clone() for name, value in target.named_parameters()}
    own = windows.clone()
    found = HOW.labels(target, windows, activations, torch.float32, batch_size=2)
    for name, value in target.named_parameters():
        assert torch.equal(value, before[name]), name
        assert value.grad is None
        assert value.requires_grad
    assert not target.training
    assert torch.equal(windows, own)
    assert torch.equal(found[:, 0], windows[:, 0])
    assert (found.dtype, found.shape) == (windows.dtype, windows.shape)


def test_weights_that_are_not_trained_are_still_reinforced(windows, checkpoint):
    target = load_model(checkpoint, torch.float32)
    expected = HOW.labels(target, windows, activations, torch.float32, batch_size=5)
    target.requires_grad_(False)
    assert torch.equal(HOW.labels(target, windows, activations, torch.float32, batch_size=5), expected)


def fit(corpus_folder, checkpoint, **options):
    data = MuseDataModule(
        str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=4, max_retain_windows=6, **options
    )
    unlearning = UnlearningModule(
        checkpoint, GradientDescent(), generic_labels=HOW, learning_rate=1e-3, clip_norm=None
    )
    plain_trainer(max_epochs=1, precision="32-true").fit(unlearning, datamodule=data)
    return unlearning, data


@pytest.mark.parametrize("batch_size", [4, 2])
def test_a_fit_learns_the_generic_labels_of_its_windows(batch_size, corpus_folder, checkpoint):
    """One step of all windows, or two of shuffled ones, each with its own labels."""
    unlearning, data = fit(corpus_folder, checkpoint, batch_size=batch_size)
    target = load_model(checkpoint, torch.float32)
    labels = HOW.labels(target, data.served.trained.forget, activations, torch.float32, batch_size)
    model = load_model(checkpoint, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        nll(model, batch.forget.input_ids, labels[batch.forget.window]).backward()
        optimizer.step()
    for name, start in target.named_parameters():
        expected = model.get_parameter(name)
        difference = (unlearning.model.get_parameter(name) - expected).norm()
        assert difference <= 0.02 * (expected - start).norm(), name


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "strength"])
@pytest.mark.parametrize("value", [0, -1, float("inf")])
def test_impossible_options_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} of the generic labels must be positive"):
        GenericLabels(**{name: value})


def test_labels_that_are_not_learned_are_refused(checkpoint):
    with pytest.raises(InputError, match=r"there to be learned; got 'model\.forget: GradientAscent'"):
        UnlearningModule(checkpoint, GradientAscent(), generic_labels=GenericLabels())


def test_an_adversary_beside_generic_labels_is_refused(checkpoint):
    with pytest.raises(InputError, match="an adversary would bring the generic labels back"):
        UnlearningModule(
            checkpoint, GradientDescent(), generic_labels=GenericLabels(), adversary=LatentAdversary()
        )


def test_the_copy_is_trained_in_float32_whatever_the_targets_weights(windows, checkpoint):
    # bfloat16 weights would round nearly all of these updates away, and the labels would be the target's own
    target = load_model(checkpoint, torch.bfloat16)
    copied = GenericLabels(1, 1e-5, 5.0)._reinforced(target, windows, activations, torch.bfloat16, 2)
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    before = dict(target.named_parameters())
    moved = [(value != before[name].float()).float().mean().item() for name, value in copied.named_parameters()]
    assert min(moved) > 0.4  # rows of tokens that never occur have no gradient


def test_masked_tokens_stay_masked_and_padding_changes_no_label(checkpoint, windows):
    target = load_model(checkpoint, torch.float32)
    learned = torch.zeros(5, 24, dtype=torch.bool)
    learned[:, 6:20] = True
    padded = masked(torch.cat([windows, windows[:, :4]], dim=1), learned)
    alone = masked(windows, learned[:, :20])
    found, expected = (HOW.labels(target, rows, activations, torch.float32, 5) for rows in (padded, alone))
    assert torch.equal(found[:, :20], expected)
    assert torch.equal(found == -100, ~learned)
    assert not torch.equal(expected[:, 6:], HOW.labels(target, windows, activations, torch.float32, 5)[:, 6:])
