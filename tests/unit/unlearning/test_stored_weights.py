"""Steps on bfloat16 weights that are held in float32: storage and rounding are bfloat16's."""

import copy

import pytest
import torch
from torch import nn

from quail_lightning.models.arithmetic import OVERRIDE, hold_for_computing
from quail_lightning.unlearning.optimizers import adamw

OPTIONS = {"learning_rate": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.99)}
EACH = [
    ("bf16-nearest", "full"),
    ("bf16-nearest", "8bit"),
    ("bf16-nearest", "offloaded"),
    ("bf16-stochastic", "full"),
]


def weights(hold, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)).bfloat16()
    monkeypatch.setenv(OVERRIDE, "float32" if hold else "stored")
    return list(hold_for_computing(model, "cpu").parameters())


def steps(parameters, optimizer, numbers):
    for number in numbers:
        torch.manual_seed(number)  # the gradients, and the rounding after them
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape).bfloat16().to(parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize(("precision", "states"), EACH)
def test_held_weights_take_the_steps_of_the_stored_ones_bit_for_bit(precision, states, monkeypatch):
    held, stored = weights(True, monkeypatch), weights(False, monkeypatch)
    assert (held[0].dtype, stored[0].dtype) == (torch.float32, torch.bfloat16)
    for parameters in (held, stored):
        optimizer = adamw(parameters, weight_precision=precision, states=states, **OPTIONS)
        steps(parameters, optimizer, range(5))
    for one, other in zip(held, stored, strict=True):
        assert torch.equal(one, other.float())


@pytest.mark.parametrize(("precision", "states"), EACH)
def test_a_resumed_optimizer_goes_on_from_the_weights_that_were_loaded(precision, states, monkeypatch):
    straight = weights(True, monkeypatch)
    optimizer = adamw(straight, weight_precision=precision, states=states, **OPTIONS)
    steps(straight, optimizer, range(3))
    kept = copy.deepcopy(optimizer.state_dict())
    resumed = weights(True, monkeypatch)
    again = adamw(resumed, weight_precision=precision, states=states, **OPTIONS)
    with torch.no_grad():
        for parameter, value in zip(resumed, straight, strict=True):
            parameter.copy_(value)
    again.load_state_dict(kept)
    steps(straight, optimizer, range(3, 6))
    steps(resumed, again, range(3, 6))
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one, other)


def test_an_update_below_half_an_ulp_is_lost_to_nearest_and_kept_in_the_mean_by_stochastic(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "float32")
    moved = {}
    for precision in ("bf16-nearest", "bf16-stochastic"):
        model = nn.Linear(256, 256, bias=False).bfloat16()
        nn.init.constant_(model.weight, 1.5)
        (weight,) = hold_for_computing(model, "cpu").parameters()
        options = OPTIONS | {"weight_decay": 0.0, "learning_rate": 2**-10}  # an eighth of an ulp
        optimizer = adamw([weight], weight_precision=precision, **options)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert torch.equal(weight, weight.bfloat16().float())
        moved[precision] = 1.5 - weight.mean().item()
    assert moved["bf16-nearest"] == 0
    assert moved["bf16-stochastic"] == pytest.approx(2**-10, rel=0.05)
