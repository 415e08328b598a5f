"""KLR against sums written out in float64, and its gradient at equality (PROTOCOL.md, section 7, defect 2)."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.objectives import KLRetention


def distribution(logits):
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("direction", ["unlearned-target", "target-unlearned"])
def test_klr_averages_the_divergence_of_distributions_over_real_tokens(logits, direction):
    total = 0.0
    for b, t in logits.real:
        unlearned, target = distribution(logits.live[b, t]), distribution(logits.target[b, t])
        p, q = (unlearned, target) if direction == "unlearned-target" else (target, unlearned)
        total += sum(p[k] * math.log(p[k] / q[k]) for k in range(5))
    term = KLRetention(direction)
    assert math.isclose(term.loss(logits.seen(term)).item(), total / 5, rel_tol=1e-12)


def test_the_paper_s_direction_is_the_default(logits):
    default, paper = KLRetention(), KLRetention("unlearned-target")
    assert default.loss(logits.seen(default)) == paper.loss(logits.seen(paper))


@pytest.mark.parametrize("direction", ["unlearned-target", "target-unlearned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_models_agree_klr_is_zero_and_its_gradient_exactly_zero(logits, direction, dtype):
    term = KLRetention(direction)
    live = torch.from_numpy(logits.target).to(dtype).requires_grad_()
    (function,) = term.needs.tokens
    labels = torch.from_numpy(logits.labels)
    loss = term.loss(logits.seen(term)._replace(tokens=(function(live, labels, live.detach().clone()),)))
    loss.backward()
    assert loss == 0
    assert torch.equal(live.grad, torch.zeros_like(live))


def test_the_published_form_would_move_a_model_that_equals_its_target(logits):
    live = torch.from_numpy(logits.target).requires_grad_()
    torch.nn.functional.kl_div(live, live.detach().clone(), log_target=True, reduction="batchmean").backward()
    assert live.grad.abs().max() > 0.1


def test_klr_reads_the_target_s_logits():
    assert KLRetention().needs.frozen == {"logits"}
