"""Rounding to 16 bits, against exact neighbours in float64 and means over many draws."""

import numpy as np
import pytest
import torch

from quail_lightning.functional.rounding import NearestValue, round_stochastically, uniform_draws

DTYPES = [torch.bfloat16, torch.float16]


def neighbours(dtype):
    """Every finite value of the dtype, ascending, float64."""
    values = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).double()
    return values[values.isfinite()].unique().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_value_goes_to_one_of_its_two_neighbours_and_the_mean_is_the_value(dtype, wide):
    generator, grid = torch.Generator().manual_seed(1), neighbours(dtype)
    tiny = float(torch.finfo(dtype).smallest_normal)
    exact = torch.randn(40, generator=generator, dtype=wide)
    if dtype == torch.float16:  # below the smallest normal number the steps are all alike
        exact = torch.cat([exact, tiny * torch.rand(20, generator=generator, dtype=wide)])
    exact = torch.cat([exact, torch.tensor([1 + 2**-9, -1 - 2**-9, 2 - 2**-12], dtype=wide)])
    draws = 20_000
    rounded = round_stochastically(exact.repeat_interleave(draws), dtype, key=7).double().view(-1, draws)
    above = np.searchsorted(grid, exact.double().numpy())
    low, high = torch.from_numpy(grid[above - 1]), torch.from_numpy(grid[above])
    assert ((rounded == low[:, None]) | (rounded == high[:, None])).all()
    share = (exact.double() - low) / (high - low)
    error = (share * (1 - share) / draws).sqrt() * (high - low)
    assert ((rounded.mean(1) - exact.double()).abs() <= 5 * error + 2**-24 * (high - low)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_dtype_holds_stays(dtype):
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    rounded = round_stochastically(every.float(), dtype, key=3)
    same = (rounded == every) | (rounded.isnan() & every.isnan())
    assert same.all()
    assert torch.equal(rounded[every == 0].signbit(), every[every == 0].signbit())


def test_what_lies_beyond_the_range_is_cast_to_the_nearest():
    values = torch.tensor([65519.0, 65521.0, -7e4, float("inf")])
    assert torch.equal(round_stochastically(values, torch.float16, key=1), values.half())


def test_a_part_is_rounded_as_it_is_within_the_whole(monkeypatch):
    values = torch.randn(3000, generator=torch.Generator().manual_seed(2))
    whole = round_stochastically(values, torch.bfloat16, key=5)
    monkeypatch.setattr("quail_lightning.functional.rounding.CHUNK", 700)
    assert torch.equal(round_stochastically(values, torch.bfloat16, key=5), whole)
    part = round_stochastically(values[1001:2500], torch.bfloat16, key=5, start=1001)
    assert torch.equal(part, whole[1001:2500])
    assert not torch.equal(round_stochastically(values, torch.bfloat16, key=6), whole)
    shaped = round_stochastically(values.view(60, 50).T, torch.bfloat16, key=5)
    assert shaped.shape == (50, 60)


def test_the_draws_are_splitmix64():
    def number(key, n):  # the published generator, in Python's own integers
        state = (key + (n + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert number(1234567, 0) == 6457827717110365317, "the first number of the published test vector"
    for key in (1234567, 2**64 - 3):
        found = uniform_draws(key, 5, 50)
        assert found.tolist() == [number(key, n) % 2**24 / 2**24 for n in range(5, 55)]
    draws = uniform_draws(9, 0, 400_000).double()
    assert abs(float(draws.mean()) - 1 / 2) < 0.002
    assert abs(float(draws.var()) - 1 / 12) < 0.001
    assert abs(float(torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1])) < 0.01


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_buckets_of_a_cast_are_its_values(dtype):
    weight = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(3)), torch.tensor([0.0, -0.0])])
    cast = NearestValue(dtype)
    index = cast.index(weight)
    assert torch.equal(cast.value(index), weight.to(dtype).float())
    assert index[-1] == index[-2], "one bucket for both zeros"
    magnitude = weight.to(dtype).abs()
    step = torch.nextafter(magnitude.float(), torch.tensor(9.0)) - magnitude.float()
    if dtype == torch.float32:
        assert torch.equal(cast.width(index), step)
    else:
        bits = {torch.bfloat16: 7, torch.float16: 10}[dtype]
        normal = magnitude.float() >= float(torch.finfo(dtype).smallest_normal)
        expected = 2.0 ** (torch.floor(torch.log2(magnitude.double())) - bits)
        assert torch.equal(cast.width(index).double()[normal], expected[normal])
