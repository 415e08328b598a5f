"""UNDIAL, CE-U and similar labels against sums over the vocabulary written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.distillation import lowered_distillation, similar_label_likelihood
from quail_lightning.functional.token_likelihood import IGNORED

RNG = np.random.default_rng(9)
LIVE, TEACHER = 2 * RNG.normal(size=(2, 6, 5))
LABELS = np.array([0, 1, 2, 3, 4, int(TEACHER[5].argmax())])


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


def goals(teacher, strength):
    for row, label in zip(teacher.copy(), LABELS, strict=True):
        row[label] -= strength
        yield softmax(row)


@pytest.mark.parametrize("strength", [0.5, 10.0, math.inf])
def test_values_and_gradients_equal_the_formula(strength):
    live = torch.from_numpy(LIVE).requires_grad_()
    values = lowered_distillation(live, torch.from_numpy(LABELS), torch.from_numpy(TEACHER), strength)
    values.sum().backward()
    for row, q, value, gradient in zip(LIVE, goals(TEACHER, strength), values, live.grad, strict=True):
        p = softmax(row)
        assert math.isclose(value.item(), -sum(q[k] * math.log(p[k]) for k in range(5)), rel_tol=1e-12)
        np.testing.assert_allclose(gradient, p - q, rtol=0, atol=1e-14)


def test_of_its_own_logits_it_is_the_others_entropy_and_what_the_true_token_keeps():
    """CE-U: no gradient flows through the goal; H(q) − log(1 − p(y))."""
    live = torch.from_numpy(LIVE).requires_grad_()
    values = lowered_distillation(live, torch.from_numpy(LABELS), live, math.inf)
    values.sum().backward()
    for place, q in enumerate(goals(LIVE, math.inf)):
        p, label = softmax(LIVE[place]), LABELS[place]
        entropy = -sum(q[k] * math.log(q[k]) for k in range(5) if k != label)
        assert math.isclose(values[place].item(), entropy - math.log(1 - p[label]), rel_tol=1e-12)
        np.testing.assert_allclose(live.grad[place], p - q, rtol=0, atol=1e-14)
        assert math.isclose(live.grad[place, label].item(), p[label], rel_tol=1e-12)


def test_a_token_without_probability_gives_no_gradient():
    live = torch.tensor([[-200.0, 1.0, 2.0]], requires_grad=True)
    lowered_distillation(live, torch.tensor([0]), live, math.inf).backward()
    assert live.grad.abs().max() < 1e-7


def test_descent_on_undial_arrives_at_the_target_with_the_true_token_lowered():
    live, labels = torch.from_numpy(TEACHER.copy()), torch.from_numpy(LABELS)
    for _ in range(2000):
        live.requires_grad_()
        loss = lowered_distillation(live, labels, torch.from_numpy(TEACHER), 3.0).sum()
        live = (live - torch.autograd.grad(loss, live)[0]).detach()
    np.testing.assert_allclose(live.softmax(-1), list(goals(TEACHER, 3.0)), atol=1e-3)


def test_the_similar_label_is_the_teacher_s_best_beside_the_true_one():
    live, teacher = torch.from_numpy(LIVE).requires_grad_(), torch.from_numpy(TEACHER)
    values = similar_label_likelihood(live, torch.from_numpy(LABELS), teacher)
    values.sum().backward()
    for place, label in enumerate(LABELS):
        similar = max((k for k in range(5) if k != label), key=lambda k: TEACHER[place, k])
        p = softmax(LIVE[place])
        assert math.isclose(values[place].item(), math.log(p[similar]), rel_tol=1e-12)
        np.testing.assert_allclose(live.grad[place], np.eye(5)[similar] - p, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "function",
    [lambda *given: lowered_distillation(*given, math.inf), similar_label_likelihood],
    ids=["distillation", "similar"],
)
def test_ignored_labels_count_for_nothing(function):
    live = torch.zeros(1, 2, 4, requires_grad=True)
    values = function(live, torch.tensor([[IGNORED, 1]]), live.detach())
    values.sum().backward()
    assert values[0, 0] == 0
    assert values[0, 1] != 0
    assert torch.equal(live.grad[0, 0], torch.zeros(4))


def test_bfloat16_logits_are_compared_in_float32():
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    value = lowered_distillation(logits, torch.tensor([0]), logits, math.inf)
    assert value.dtype == torch.float32
    assert math.isclose(value.item(), math.log(1 + math.e), rel_tol=1e-6)
