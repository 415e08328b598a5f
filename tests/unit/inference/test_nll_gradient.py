"""The gradient of the mean NLL, against float64 and the NLL that is reported."""

import copy

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.masking import masked
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.nll_gradient import nll_gradient
from quail_lightning.models.tiny import tiny_llama

NAMES = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"]


@pytest.fixture
def model():
    return tiny_llama(vocab_size=60, width=64, layers=1, heads=2, positions=32, seed=3).train()


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 60, (3, 12), generator=generator)
    learned = torch.ones_like(tokens, dtype=torch.bool)
    learned[1, :5] = False  # a prompt
    learned[2, 9:] = False  # padding
    return masked(tokens, learned)


def exact(model, windows):
    """The mean NLL and its gradients in float64, from the logits of the whole model."""
    exactly = copy.deepcopy(model).double().eval()
    means = []
    for window in windows:
        ids = torch.where(window < 0, -window - 1, window)
        chances = exactly(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        picked = chances[range(len(ids) - 1), ids[1:]]
        means.append(-picked[window[1:] >= 0].mean())
    mean = torch.stack(means).mean()
    parameters = dict(exactly.named_parameters())
    return float(mean.detach()), dict(
        zip(NAMES, torch.autograd.grad(mean, [parameters[n] for n in NAMES]), strict=True)
    )


def test_gradient_is_that_of_the_mean_nll_in_float64(model, windows):
    found = nll_gradient(model, windows, NAMES)
    nll, gradients = exact(model, windows)
    assert found.nll == pytest.approx(nll, rel=1e-5)
    assert found.nll == pytest.approx(float(window_nlls(model, windows, 1).mean()), rel=1e-5)
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        assert (found.weights[name] - gradient).norm() < 1e-4 * gradient.norm()


def test_the_model_is_left_as_it_was(model, windows):
    parameters = dict(model.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    frozen = parameters["model.norm.weight"].requires_grad_(False)
    held = parameters[NAMES[0]].grad = torch.ones_like(parameters[NAMES[0]])
    seen = []
    found = nll_gradient(model, windows, NAMES, lambda done, total: seen.append((done, total)))
    assert parameters[NAMES[0]].grad is held
    assert parameters[NAMES[1]].grad is None
    assert not frozen.requires_grad
    assert parameters["model.embed_tokens.weight"].requires_grad
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert set(found.weights) == set(NAMES)


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [(0, NAMES, "at least one window"), (3, ["model.nothing"], "no such parameter")],
)
def test_what_has_no_gradient_is_refused(model, windows, rows, names, said):
    with pytest.raises(InputError, match=said):
        nll_gradient(model, windows[:rows], names)


def test_windows_beyond_the_positions_are_refused(model):
    with pytest.raises(InputError, match="positions"):
        nll_gradient(model, torch.ones(1, 40, dtype=torch.long), NAMES)
