"""The inverted hinge against 1 + p(y) − max p(v ≠ y) written out in float64."""

import math

import numpy as np
import torch

from quail_lightning.functional.inverted_hinge import inverted_hinge
from quail_lightning.functional.token_likelihood import IGNORED


def by_hand(logits, label):
    total = sum(math.exp(value) for value in logits)
    p = [math.exp(value) / total for value in logits]
    return 1 + p[label] - max(p[:label] + p[label + 1 :])


def test_it_equals_its_formula_whether_or_not_the_true_token_leads():
    logits = np.random.default_rng(6).normal(size=(3, 4, 5)) * 2
    labels = np.zeros((3, 4), dtype=np.int64)
    for b, t in np.ndindex(3, 4):  # the likeliest, the next, the least likely
        labels[b, t] = np.argsort(-logits[b, t])[[0, 1, 4][b]]
    expected = [[by_hand(list(logits[b, t]), labels[b, t]) for t in range(4)] for b in range(3)]
    found = inverted_hinge(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert (found[0] > 1).all()  # leads
    assert (found[1:] < 1).all()


def test_by_hand():
    logits = torch.tensor([[math.log(6.0), math.log(3.0), 0.0]])  # 0.6, 0.3, 0.1
    values = [inverted_hinge(logits, torch.tensor([label])).item() for label in range(3)]
    assert np.allclose(values, [1.3, 0.7, 0.5])


def test_it_is_bounded_between_zero_and_two():
    logits = torch.tensor([[50.0, 0.0, -50.0]], requires_grad=True)
    values = torch.cat([inverted_hinge(logits, torch.tensor([label])) for label in (0, 2)])
    values.sum().backward()
    assert torch.allclose(values, torch.tensor([2.0, 0.0]))
    assert logits.grad.abs().max() < 1e-6  # saturated at both ends
    random = 30 * torch.randn(200, 7, generator=torch.Generator().manual_seed(7))
    inside = inverted_hinge(random, torch.arange(200) % 7)
    assert ((inside >= 0) & (inside <= 2)).all()


def test_its_gradient_equals_the_closed_form():
    z = np.random.default_rng(8).normal(size=6)
    label, best = 2, max((k for k in range(6) if k != 2), key=lambda k: z[k])
    p = np.exp(z) / np.exp(z).sum()
    expected = [p[label] * ((k == label) - p[k]) - p[best] * ((k == best) - p[k]) for k in range(6)]
    logits = torch.from_numpy(z)[None].requires_grad_()
    inverted_hinge(logits, torch.tensor([label])).sum().backward()
    np.testing.assert_allclose(logits.grad[0].numpy(), expected, rtol=0, atol=1e-14)


def test_a_step_moves_probability_from_the_true_token_to_the_best_other_one():
    logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    inverted_hinge(logits, torch.tensor([0])).sum().backward()
    before, after = logits.detach().softmax(-1)[0], (logits.detach() - logits.grad).softmax(-1)[0]
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_ignored_labels_count_for_nothing():
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    values = inverted_hinge(logits, torch.tensor([[IGNORED, 1]]))
    values.sum().backward()
    assert values.tolist() == [[0.0, 1.0]]
    assert torch.equal(logits.grad[0, 0], torch.zeros(4))


def test_bfloat16_logits_are_compared_in_float32():
    value = inverted_hinge(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), torch.tensor([0]))
    assert value.dtype == torch.float32
    assert math.isclose(value.item(), 2 * math.e / (1 + math.e), rel_tol=1e-6)
