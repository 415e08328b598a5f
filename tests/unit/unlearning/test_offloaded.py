"""AdamW with its moments in main memory: the steps of torch's own, and what lies where."""

import pytest
import torch
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.unlearning.offloaded import OffloadedAdamW
from quail_lightning.unlearning.optimizers import adamw, check_installed

OPTIONS = {"learning_rate": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}
SHAPES = [(7, 5), (11,), (3, 3)]


def weights():
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def give_gradients(parameters, number):
    """The third weight has one at every second step alone."""
    generator = torch.Generator().manual_seed(number)
    for position, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if position == 2 and number % 2 else gradient


def train(parameters, optimizer, numbers):
    for number in numbers:
        give_gradients(parameters, number)
        optimizer.step()
        optimizer.zero_grad()


def offloaded(parameters):
    return adamw(parameters, weight_precision="float32", states="offloaded", **OPTIONS)


def by_torch(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.95))


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_steps_are_those_of_torchs_adamw_to_the_last_bit():
    ours, theirs = weights(), weights()
    train(ours, offloaded(ours), range(6))
    train(theirs, by_torch(theirs), range(6))
    assert_equal(ours, theirs)


def test_only_one_weights_moments_are_on_the_device_and_none_between_steps(monkeypatch):
    parameters = weights()
    optimizer, seen = offloaded(parameters), []
    step = torch.optim.AdamW.step

    def recorded(self, closure=None):
        seen.append([tuple(parameter.shape) for parameter in self.state])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    train(parameters, optimizer, [2, 4])
    assert seen == [[], [], [], [(7, 5)], [(11,)], [(3, 3)]]
    assert not optimizer.state, "Lightning moves to the device whatever lies there"
    assert len(optimizer.param_groups[0]["params"]) == 3


@pytest.mark.parametrize("loaded_from", [offloaded, by_torch])
def test_a_loaded_state_goes_on_as_if_never_interrupted(loaded_from):
    expected = weights()
    train(expected, by_torch(expected), range(6))
    first = weights()
    saved = loaded_from(first)
    train(first, saved, range(3))
    again = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    optimizer = offloaded(again)
    optimizer.load_state_dict(saved.state_dict())
    assert not optimizer.state
    train(first, saved, [99])  # the loaded moments are its own
    train(again, optimizer, range(3, 6))
    assert_equal(again, expected)


def test_the_state_dict_is_torchs():
    ours, theirs = weights(), weights()
    found, expected = offloaded(ours), by_torch(theirs)
    train(ours, found, range(2))
    train(theirs, expected, range(2))
    found, expected = found.state_dict(), expected.state_dict()
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        for name, value in state.items():
            assert torch.equal(found["state"][number][name], value), (number, name)
    assert found["param_groups"][0]["params"] == expected["param_groups"][0]["params"]


def test_a_step_that_fails_leaves_the_groups_whole(monkeypatch):
    parameters = weights()
    optimizer = OffloadedAdamW(parameters, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.95))
    give_gradients(parameters, 0)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("no memory"))
    with pytest.raises(pytest.fail.Exception):
        optimizer.step()
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_stochastic_rounding_has_no_offloaded_states():
    with pytest.raises(InputError, match=r"does not round stochastically.*bf16-stochastic.*8bit or full"):
        check_installed("bf16-stochastic", "offloaded")
