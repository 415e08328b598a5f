"""CE-U, UNDIAL and similar labels over real tokens, written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.objectives import AdjustedDistillation, CrossEntropyUnlearning, SimilarLabels


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


def without(row, label, strength):
    return softmax(np.where(np.arange(5) == label, row - strength, row))


GOALS = {
    "CE-U": (CrossEntropyUnlearning(), lambda live, target, label: without(live, label, math.inf)),
    "UNDIAL": (AdjustedDistillation(), lambda live, target, label: without(target, label, 10.0)),
    "UNDIAL, β 2": (AdjustedDistillation(2.0), lambda live, target, label: without(target, label, 2.0)),
    "similar labels": (
        SimilarLabels(),
        lambda live, target, label: np.eye(5)[max((k for k in range(5) if k != label), key=lambda k: target[k])],
    ),
}


@pytest.mark.parametrize("name", GOALS)
def test_it_is_the_mean_cross_entropy_towards_the_goal_of_each_real_token(name, logits):
    term, goal = GOALS[name]
    live = torch.from_numpy(logits.live).requires_grad_()
    loss = term.loss(logits.seen(term, live))
    loss.backward()
    total, expected = 0.0, np.zeros_like(logits.live)
    for b, t in logits.real:
        p, q = softmax(logits.live[b, t]), goal(logits.live[b, t], logits.target[b, t], logits.labels[b, t])
        total -= sum(q[k] * math.log(p[k]) for k in range(5))
        expected[b, t] = (p - q) / 5
    assert math.isclose(loss.item(), total / 5, rel_tol=1e-12)
    np.testing.assert_allclose(live.grad, expected, rtol=0, atol=1e-15)


def test_only_ce_u_does_without_the_target():
    asked = {name: term.needs.frozen for name, (term, _) in GOALS.items()}
    assert asked == {name: set() if name == "CE-U" else {"logits"} for name in GOALS}


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan, math.inf])
def test_a_strength_that_is_not_positive_is_refused(strength):
    with pytest.raises(InputError, match="UNDIAL's strength"):
        AdjustedDistillation(strength)
