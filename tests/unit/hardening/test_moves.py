"""Moves across a format's boundaries, against the format's own quantized copies and float64."""

import copy

import pytest
import torch

from quail_lightning.hardening.moves import (
    MARGIN,
    MOST,
    REACH,
    Moves,
    Slopes,
    exchange,
    joined_moves,
    moves_across,
)
from quail_lightning.models.tiny import tiny_llama
from quail_lightning.quantization.body_weights import body_weights
from quail_lightning.quantization.rounded_weights import WeightLevels, replace_by_rounded

GRIDS = [f"uniform4-{shared}" for shared in ("group64", "channel", "tensor")]
FORMATS = ["nf4", "fp4", "nvfp4", "mxfp4", "q4_0", "q8_0", *GRIDS]


@pytest.fixture(scope="module")
def model():
    """Two layers of width 64, whose weights are exact in bfloat16."""
    made = tiny_llama(vocab_size=96, width=64, layers=2, heads=4, positions=32, seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.bfloat16())
    return made


@pytest.fixture(scope="module")
def slopes(model):
    """Random ones, of a few sizes."""
    generator = torch.Generator().manual_seed(5)
    names = [each.name for each in body_weights(model)]

    def drawn():
        return {name: torch.randn(model.get_parameter(name).shape, generator=generator) for name in names}

    return Slopes(drawn(), drawn(), {name: value.square() for name, value in drawn().items()})


def rounded(model, name):
    """Name → its values in the format."""
    other = copy.deepcopy(model)
    replace_by_rounded(other, WeightLevels.of(name, model))
    return {each.name: each.parameter.detach().clone() for each in body_weights(other)}


@pytest.mark.parametrize("name", FORMATS)
def test_moved_weights_go_to_the_next_value_and_no_other_does(model, slopes, name):
    levels = WeightLevels.of(name, model)
    moves = moves_across(model, levels, torch.bfloat16, slopes)
    assert moves.size > 50
    before = rounded(model, name)
    other = copy.deepcopy(model)
    few = moves.chosen(torch.arange(0, moves.size, 7))
    exchange(other, levels, few)
    after = rounded(other, name)
    for number, weight in enumerate(levels.buckets):
        here = few.matrix == number
        jump = (after[weight].double() - before[weight].double()).flatten()
        places = few.position[here]
        assert jump[places].count_nonzero() == len(places)
        rest = jump.clone()
        rest[places] = 0
        assert not rest.any(), weight
        # what a move gains and costs, from the copies
        g, r, bend = (each[weight].double().flatten() for each in slopes)
        torch.testing.assert_close((g * jump)[places], few.gain[here].double(), rtol=1e-5, atol=1e-9)
        assert ((r * jump)[places] <= 0).all()
        own = (bend * jump.square() / 2)[places]
        assert (few.cost[here].double() > own).all()
        floor = few.cost[here].double() - own
        torch.testing.assert_close(floor, floor.mean().expand_as(floor), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_weight_moves_just_behind_the_boundary_and_is_exact_in_its_dtype(model, slopes, dtype):
    levels = WeightLevels.of("uniform4-group64", model)
    moves = moves_across(model, levels, dtype, slopes)
    assert torch.equal(moves.value, moves.value.to(dtype).float())
    fitted = [part for _, _, parts in levels.fitted(model) for part in parts]
    for number, part in enumerate(fitted):
        here = moves.matrix == number
        weight = part.matrix.flatten()[moves.position[here]]
        step = part.width(part.index(part.matrix)).flatten()[moves.position[here]]
        far = (moves.value[here] - weight).abs() / step
        assert (far > 0).all()
        assert (far <= REACH + MARGIN + 0.02).all()  # the dtype's own rounding
        assert here.sum() <= -(-part.matrix.numel() * MOST // 1)


def test_exchanging_twice_leaves_every_bit(model, slopes):
    levels = WeightLevels.of("fp4", model)
    moves = moves_across(model, levels, torch.bfloat16, slopes)
    other = copy.deepcopy(model)
    undoing = exchange(other, levels, moves)
    assert any(not torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    again = exchange(other, levels, undoing)
    assert torch.equal(again.value, moves.value)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


def test_slopes_of_a_part_of_the_weights_move_those_alone(model, slopes):
    levels = WeightLevels.of("fp4", model)
    names = list(levels.buckets)
    parts = [Slopes(*({name: each[name] for name in some} for each in slopes)) for some in (names[:3], names[3:])]
    first, rest = (moves_across(model, levels, torch.bfloat16, part) for part in parts)
    assert set(first.matrix.tolist()) <= {0, 1, 2}
    assert set(rest.matrix.tolist()) <= set(range(3, len(names)))
    together = joined_moves([first, rest])
    whole = moves_across(model, levels, torch.bfloat16, slopes)
    assert together.size == whole.size
    assert all(torch.equal(a, b) for a, b in zip(together, whole, strict=True))


def test_the_cheapest_come_first_until_the_gain_is_reached():
    gain, cost = torch.tensor([0.2, 0.3, 0.4, 0.1]), torch.tensor([1.0, 1.0, 4.0, 0.1])
    numbers = torch.arange(4)
    moves = Moves(numbers, numbers, gain, gain, cost)
    assert moves.cheapest(0.05).position.tolist() == [3]  # 1 for a unit of cost
    assert moves.cheapest(0.35).position.tolist() == [3, 1]
    assert moves.cheapest(0.45).position.tolist() == [3, 1, 0]
    assert moves.cheapest(9).position.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral"])
def test_other_layouts_are_moved_where_the_copy_has_them(architecture):
    from architectures import tiny_model

    model = tiny_model(architecture)
    levels = WeightLevels.of("uniform4-group64" if architecture == "gpt2" else "uniform4-channel", model)
    generator = torch.Generator().manual_seed(5)
    ones = {name: torch.ones(model.get_parameter(name).shape) for name in levels.buckets}
    forget = {name: torch.randn(value.shape, generator=generator) for name, value in ones.items()}
    slopes = Slopes(forget, {name: torch.zeros_like(value) for name, value in ones.items()}, ones)
    moves = moves_across(model, levels, torch.float32, slopes)
    other = copy.deepcopy(model)
    exchange(other, levels, moves)
    jumps = {
        name: dict(other.named_parameters())[name].detach() - value.detach()
        for name, value in model.named_parameters()
    }
    assert sum(int(jump.count_nonzero()) for jump in jumps.values()) == moves.size > 0
    assert not any(jump.any() for name, jump in jumps.items() if name not in levels.buckets)
    for name in levels.buckets:  # towards higher forget NLL, whichever way the matrix lies
        assert (jumps[name] * forget[name] >= 0).all()
