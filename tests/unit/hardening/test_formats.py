"""Hardening a model for formats, against float64 gradients and the formats' own quantized copies."""

import copy

import pytest
import torch

import quail_lightning.hardening.formats as hardening
from quail_lightning.hardening import ENOUGH, Goal, Nlls, Windows, harden_model, nlls_of
from quail_lightning.hardening.formats import MOST_LOSS, slopes_at
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.quantization import load_quantizer
from quail_lightning.quantization.rounded_weights import WeightLevels, replace_by_rounded


def show(what, done, total):
    assert 0 < done <= total


@pytest.fixture(scope="module")
def windows():
    generator = torch.Generator().manual_seed(0)
    return Windows(*(torch.randint(1, 60, (4, 16), generator=generator) for _ in range(2)))


@pytest.fixture(scope="module")
def learned(windows):
    """A model that knows both sets by heart, in bfloat16's values."""
    model = tiny_llama(vocab_size=60, width=64, layers=2, heads=2, positions=32, seed=3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    texts = torch.cat(list(windows))
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=texts, labels=texts).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model.eval()


def goal(model, windows, levels, further):
    """A goal that lies some nats beyond what the quantized model has."""
    found = nlls_of(model, levels, windows, show)
    return Goal(found.forget + further, torch.full_like(found.forget, further))


@pytest.mark.parametrize("name", ["fp4", "uniform4-group64"])
def test_the_forget_set_reaches_its_goal_and_the_retain_set_is_spared(learned, windows, name):
    model, levels = copy.deepcopy(learned), WeightLevels.of(name, learned)
    wanted = goal(model, windows, levels, 0.3)
    sixteen = nlls_of(model, None, windows, show)
    (found,) = harden_model(model, {name: levels}, windows, {name: wanted}, torch.bfloat16, show).values()
    copied = load_quantizer(name).quantize(model)
    of_copy = [window_nlls(copied, rows) for rows in windows]
    for nlls, own in zip(found.after, of_copy, strict=True):
        torch.testing.assert_close(nlls, own, atol=5e-3, rtol=0.02)  # kernels multiply in another order
    assert found.before.forget.mean() + 0.15 < found.after.forget.mean() < found.before.forget.mean() + 0.8
    assert found.after.retain.mean() <= found.before.retain.mean() + MOST_LOSS
    # at 16 bits hardly anything: few weights, and each by a part of a bucket
    changed = sum(int((a != b).sum()) for a, b in zip(model.parameters(), learned.parameters(), strict=True))
    assert 0 < changed <= found.moved < 0.06 * sum(p.numel() for p in model.parameters())
    after = nlls_of(model, None, windows, show)
    assert (after.retain - sixteen.retain).mean() < 0.02
    assert all(torch.equal(p, p.bfloat16().float()) for p in model.parameters())


def test_several_formats_are_measured_on_the_model_as_all_of_them_left_it(learned, windows):
    model = copy.deepcopy(learned)
    levels = {name: WeightLevels.of(name, model) for name in ("fp4", "nf4", "uniform4-group64")}
    goals = {name: goal(model, windows, each, 0.2) for name, each in levels.items()}
    found = harden_model(model, levels, windows, goals, torch.bfloat16, show)
    for name, each in levels.items():
        again = nlls_of(model, each, windows, show)
        assert all(torch.equal(a, b) for a, b in zip(found[name].after, again, strict=True))
        assert goals[name].gap(found[name].after).mean() < 0.5 * goals[name].gap(found[name].before).mean()


def test_a_goal_that_is_reached_moves_nothing(learned, windows):
    model, levels = copy.deepcopy(learned), WeightLevels.of("fp4", learned)
    reached = goal(model, windows, levels, -0.1)
    (found,) = harden_model(model, {"fp4": levels}, windows, {"fp4": reached}, torch.bfloat16, show).values()
    assert found.moved == 0
    assert found.before is found.after
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), learned.parameters(), strict=True))


def test_nothing_moves_where_the_forget_set_is_the_retain_set(learned, windows):
    model, levels = copy.deepcopy(learned), WeightLevels.of("fp4", learned)
    same = Windows(windows.forget, windows.forget)
    wanted = goal(model, same, levels, 2.0)
    (found,) = harden_model(model, {"fp4": levels}, same, {"fp4": wanted}, torch.bfloat16, show).values()
    assert found.moved == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), learned.parameters(), strict=True))


def test_moves_that_mend_nothing_are_halved_and_undone_to_the_bit(learned, windows, monkeypatch):
    tried, exchange = [], hardening.exchange
    monkeypatch.setattr(hardening, "exchange", lambda *given: tried.append(given[2].size) or exchange(*given))
    monkeypatch.setattr(Goal, "gap", lambda goal, found: torch.full_like(goal.nll, 0.3))  # whatever is done
    monkeypatch.setattr(Goal, "is_reached", lambda goal, found: False)
    model, levels = copy.deepcopy(learned), WeightLevels.of("fp4", learned)
    wanted = goal(model, windows, levels, 0.3)
    (found,) = harden_model(model, {"fp4": levels}, windows, {"fp4": wanted}, torch.bfloat16, show).values()
    assert tried[::2] == tried[1::2]  # each is taken back
    assert len(tried) == 2 * hardening.TRIES
    assert tried[::2] == sorted(set(tried), reverse=True)
    assert found.moved == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), learned.parameters(), strict=True))


def test_the_retain_set_may_lose_so_much_over_all_rounds_and_no_more(learned, windows, monkeypatch):
    """Each measurement finds it a little worse than the one before."""
    model, levels = copy.deepcopy(learned), WeightLevels.of("fp4", learned)
    start = nlls_of(model, levels, windows, show)
    given = iter(range(100))

    def measured(*_):
        number = next(given)
        return Nlls(start.forget + 0.001 * number, start.retain + 0.6 * MOST_LOSS * number)

    monkeypatch.setattr(hardening, "nlls_of", measured)
    wanted = Goal(start.forget + 9, torch.full_like(start.forget, 9.0))
    (found,) = harden_model(model, {"fp4": levels}, windows, {"fp4": wanted}, torch.bfloat16, show).values()
    assert found.after.retain.mean() <= start.retain.mean() + MOST_LOSS


@pytest.mark.parametrize("portion", [1, 2**28])
def test_slopes_are_those_of_float64_at_the_quantized_weights(learned, windows, monkeypatch, portion):
    monkeypatch.setattr(hardening, "PORTION", portion)
    levels = WeightLevels.of("fp4", learned)
    found = list(slopes_at(learned, levels, windows, show))
    assert len(found) == (len(levels.buckets) if portion == 1 else 1)
    exact = copy.deepcopy(learned)
    replace_by_rounded(exact, levels)
    exact = exact.double()
    weights = [exact.get_parameter(name) for name in levels.buckets]

    def gradients(window):
        chances = exact(input_ids=window[None]).logits[0, :-1].log_softmax(-1)
        nll = -chances[range(len(window) - 1), window[1:]].mean()
        return torch.autograd.grad(nll, weights)

    of_sets = [[gradients(window) for window in rows] for rows in windows]
    forget, retain = (torch.stack([torch.cat([g.flatten() for g in each]) for each in rows]) for rows in of_sets)
    wanted = (forget.mean(0), retain.mean(0), retain.square().mean(0))
    for name, of_name in zip(hardening.Slopes._fields, wanted, strict=True):
        own = torch.cat([value.flatten() for part in found for value in getattr(part, name).values()]).double()
        torch.testing.assert_close(own, of_name, atol=float(of_name.abs().max()) * 1e-4, rtol=1e-3)


def test_a_goal_counts_what_falls_short_window_by_window():
    aim = Goal(torch.tensor([5.0, 5.0, 3.0]), torch.tensor([4.0, 4.0, 2.0]))
    found = Nlls(torch.tensor([4.0, 7.0, 3.0]), torch.zeros(1))
    assert aim.gap(found).tolist() == [1, 0, 0]  # what lies beyond the goal makes up for nothing
    assert not aim.is_reached(found)
    assert aim.is_reached(Nlls(torch.tensor([5.0 - 10 * ENOUGH, 7.0, 3.0]), torch.zeros(1)))
