"""DPO, NPO and SimNPO written out in float64."""

import math

import numpy as np
import pytest
import torch

from quail_lightning.functional.preference import direct_preference, negative_preference, simple_preference


def by_hand(ratio, beta):
    return 2 / beta * math.log1p(math.exp(beta * ratio))  # σ(−x) = 1 / (1 + exp(x))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_npo_equals_its_formula_written_out_in_float64(beta):
    live, reference = np.array([-120.0, -80.0, -91.5]), np.array([-100.0, -90.0, -91.0])
    expected = [by_hand(a - b, beta) for a, b in zip(live, reference, strict=True)]
    found = negative_preference(torch.from_numpy(live), torch.from_numpy(reference), beta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_where_both_agree_it_is_two_log_two_over_beta():
    value = negative_preference(torch.tensor([-50.0]), torch.tensor([-50.0]), 0.1)
    assert math.isclose(value.item(), 20 * math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("beta", [1e-4, 0.1, 10.0])
def test_at_the_start_the_gradient_is_that_of_gradient_ascent(beta):
    live = torch.tensor([-50.0, -3.0], dtype=torch.float64, requires_grad=True)
    negative_preference(live, live.detach().clone(), beta).sum().backward()
    assert torch.equal(live.grad, torch.ones(2, dtype=torch.float64))  # that of +log f


@pytest.mark.parametrize(("ratio", "beta"), [(-40.94, 0.1), (-5.0, 0.1), (12.0, 0.1), (-5.0, 1.0)])
def test_the_gradient_is_gradient_ascent_s_times_twice_a_sigmoid(ratio, beta):
    live = torch.tensor([-500.0], dtype=torch.float64, requires_grad=True)
    negative_preference(live, live.detach() - ratio, beta).sum().backward()
    assert math.isclose(live.grad.item(), 2 / (1 + math.exp(-beta * ratio)), rel_tol=1e-10)


def test_a_rise_of_two_hundredths_of_a_nat_a_token_leaves_three_hundredths_of_the_gradient():
    live = torch.tensor([-0.02 * 2047], dtype=torch.float64, requires_grad=True)
    negative_preference(live, torch.zeros(1, dtype=torch.float64), 0.1).sum().backward()
    assert math.isclose(live.grad.item(), 0.03, abs_tol=0.005)  # the docstring's number


def test_as_beta_tends_to_zero_it_is_gradient_ascent():
    live = torch.tensor([-120.0, -80.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-100.0, -90.0], dtype=torch.float64)
    value = negative_preference(live, reference, 1e-7)
    value.sum().backward()
    assert torch.allclose(live.grad, torch.ones(2, dtype=torch.float64), atol=1e-5)
    rises = value.detach() - 2e7 * math.log(2)  # less the constant: log-ratio
    assert torch.allclose(rises, torch.tensor([-20.0, 10.0], dtype=torch.float64), atol=1e-4)


def test_extreme_ratios_give_finite_values_and_gradients():
    live = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = negative_preference(live, torch.zeros(2), 0.1)
    value.sum().backward()
    assert value[0] == 0  # forgotten
    assert math.isclose(value[1].item(), 2e4, rel_tol=1e-6)  # −2/β · log σ(−x) is 2x/β for a large x
    assert torch.equal(live.grad, torch.tensor([0.0, 2.0]))


def test_no_gradient_flows_into_the_reference():
    live, reference = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    negative_preference(live, reference, 0.1).sum().backward()
    assert reference.grad is None


# --- SimNPO ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "margin"), [(4.5, 0.0), (0.7, 0.0), (0.75, 3.0)])
def test_simnpo_and_its_gradient_equal_the_formula_written_out_in_float64(beta, margin):
    means = [-0.01, -1.2, -8.0]
    live = torch.tensor(means, dtype=torch.float64, requires_grad=True)
    values = simple_preference(live, beta, margin)
    values.sum().backward()
    sigmoid = [1 / (1 + math.exp(-(-beta * mean - margin))) for mean in means]
    np.testing.assert_allclose(values.detach(), [-2 / beta * math.log(s) for s in sigmoid], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(live.grad, [2 * (1 - s) for s in sigmoid], rtol=1e-9, atol=1e-15)


def test_simnpo_falls_to_zero_as_the_text_is_forgotten_and_a_margin_makes_it_go_further():
    known, forgotten = torch.tensor([-0.01, -40.0], dtype=torch.float64)
    assert simple_preference(forgotten, 4.5, 0.0) < 1e-12 < 0.1 < simple_preference(known, 4.5, 0.0)
    assert simple_preference(forgotten, 0.75, 3.0) > simple_preference(forgotten, 0.75, 0.0)


def test_a_larger_beta_of_simnpo_lets_go_earlier():
    live = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    pulls = [torch.autograd.grad(simple_preference(live, beta, 0.0), live)[0].item() for beta in (0.7, 4.5, 9.0)]
    assert pulls == sorted(pulls, reverse=True)


def dpo_of_the_paper(chosen, rejected, chosen_reference, rejected_reference, beta):
    """−log σ(β (log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l))), Rafailov et al. 2023, Eq. 7."""
    margin = beta * ((chosen - chosen_reference) - (rejected - rejected_reference))
    return -math.log(1 / (1 + math.exp(-margin)))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_dpo_is_the_paper_s_times_two_over_beta(beta):
    chosen, rejected = np.array([-12.0, -30.0, -8.0]), np.array([-3.0, -41.0, -7.5])
    chosen_reference, rejected_reference = np.array([-15.0, -28.0, -8.0]), np.array([-2.0, -40.0, -7.5])
    given = (chosen, rejected, chosen_reference, rejected_reference)
    expected = [2 / beta * dpo_of_the_paper(*row, beta) for row in zip(*given, strict=True)]
    ratios = (torch.from_numpy(rejected - rejected_reference), torch.from_numpy(chosen - chosen_reference))
    np.testing.assert_allclose(direct_preference(*ratios, beta).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("worse", "better"), [(0.0, 0.0), (-20.0, 15.0), (8.0, -9.0)])
def test_the_gradient_of_dpo_pushes_both_answers_alike_and_fades_as_the_alternate_wins(worse, better):
    leaves = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (worse, better)]
    direct_preference(*leaves, 0.1).sum().backward()
    weight = 2 / (1 + math.exp(0.1 * (better - worse)))  # Rafailov et al., section 4: σ of the reward's error
    assert math.isclose(leaves[0].grad.item(), weight, rel_tol=1e-12)
    assert math.isclose(leaves[1].grad.item(), -weight, rel_tol=1e-12)


def test_dpo_with_an_alternate_that_does_not_move_is_npo():
    live, reference = torch.tensor([-120.0, -80.0]), torch.tensor([-100.0, -90.0])
    assert torch.equal(
        direct_preference(live - reference, torch.zeros(2), 0.1), negative_preference(live, reference, 0.1)
    )
