"""Relearning: the training step that makes targets, on what an attacker has."""

import random

import pytest
import torch

from quail_lightning.attacks import Relearn
from quail_lightning.attacks.relearning import drawn
from quail_lightning.errors import InputError
from quail_lightning.inference.likelihood import window_nlls

WINDOWS = torch.randint(0, 64, (6, 16), generator=torch.Generator().manual_seed(2))
TEXTS = {"forget": WINDOWS, "retain": WINDOWS.flip(0) // 2}


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_one_step_is_adamw_s_on_the_clipped_gradient_of_the_mean_nll(tiny_llama, monkeypatch):
    monkeypatch.setenv("QUAIL_ARITHMETIC", "float32")
    model = tiny_llama()
    attack = Relearn(steps=1, learning_rate=1e-3, batch_size=6)
    found = attack.attack(model, TEXTS)
    by_hand = tiny_llama().double().train()
    logits = by_hand(input_ids=WINDOWS).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), WINDOWS[:, 1:].flatten())
    names, parameters = zip(*by_hand.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    scale = min(1.0, 1.0 / float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        clipped = scale * gradient
        expected = parameter - 1e-3 * clipped / (clipped.abs() + 1e-8)  # AdamW's first step
        certain = gradient.abs() > 1e-5  # where float32 knows the gradient's sign
        difference = (found.get_parameter(name).double() - expected)[certain].abs()
        assert certain.any()
        assert difference.max() < 2e-6, name


def test_it_knows_the_text_better_and_leaves_the_model_alone(tiny_llama):
    model = tiny_llama(torch.bfloat16)
    before, states = weights(model), (torch.get_rng_state(), random.getstate())
    attacked = Relearn(steps=20, learning_rate=1e-3, batch_size=2).attack(model, TEXTS)
    assert window_nlls(attacked, WINDOWS).mean() < window_nlls(model, WINDOWS).mean() - 0.3
    assert same(before, weights(model))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert attacked.dtype == torch.bfloat16
    assert not attacked.training
    assert not any(parameter.requires_grad for parameter in attacked.parameters())


def test_more_steps_and_the_text_itself_bring_back_more(tiny_llama):
    model = tiny_llama()
    nlls = {
        (steps, source): float(
            window_nlls(
                Relearn(steps=steps, source=source, learning_rate=1e-3).attack(model, TEXTS), WINDOWS
            ).mean()
        )
        for steps, source in ((2, "forget"), (12, "forget"), (12, "retain"))
    }
    assert nlls[12, "forget"] < nlls[2, "forget"]
    assert nlls[12, "forget"] < nlls[12, "retain"]


def test_the_seed_decides_whatever_happened_before(tiny_llama):
    model = tiny_llama(torch.bfloat16)
    options = {"steps": 3, "share": 0.5, "learning_rate": 1e-3}
    first = weights(Relearn(**options).attack(model, TEXTS))
    torch.manual_seed(99)
    assert same(first, weights(Relearn(**options).attack(model, TEXTS)))
    assert not same(first, weights(Relearn(**options, seed=1).attack(model, TEXTS)))


def test_it_trains_where_an_evaluation_has_switched_gradients_off(tiny_llama):
    with torch.inference_mode():
        model = tiny_llama(torch.bfloat16)
        attacked = Relearn(steps=2, learning_rate=1e-3).attack(model, TEXTS)
        assert torch.is_inference_mode_enabled()
    outside = Relearn(steps=2, learning_rate=1e-3).attack(tiny_llama(torch.bfloat16), TEXTS)
    assert same(weights(attacked), weights(outside))


def test_progress_counts_the_steps_of_all_epochs(tiny_llama):
    told = []
    attack = Relearn(epochs=2, share=0.5, batch_size=2)
    attack.attack(tiny_llama(), TEXTS, lambda *each: told.append(each))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]  # 3 windows in batches of 2, twice
    assert Relearn(steps=5).reads == ("forget",)


def test_a_share_is_drawn_by_the_seed_rounded_up():
    chosen = drawn(WINDOWS, 0.4, seed=0)
    assert len(chosen) == 3
    assert torch.equal(chosen, drawn(WINDOWS, 0.4, seed=0))
    assert all((row == WINDOWS).all(dim=1).any() for row in chosen)
    assert torch.equal(drawn(WINDOWS, 1.0, seed=5), WINDOWS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "steps or epochs, exactly one"),
        ({"steps": 1, "epochs": 1}, "steps or epochs, exactly one"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"steps": 1, "share": 0}, r"share must lie in \(0, 1\]"),
        ({"steps": 1, "share": 1.5}, r"share must lie in \(0, 1\]"),
        ({"steps": 1, "share": float("nan")}, r"share must lie in \(0, 1\]"),
        ({"steps": 1, "source": "holdout"}, "source"),
        ({"steps": 1, "learning_rate": 0}, "learning_rate must be positive"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be positive"),
        ({"steps": 1, "clip_norm": 0}, "clip_norm must be positive"),
    ],
)
def test_what_is_no_attack_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        Relearn(**options)
