"""Pairs counted against ``collections.Counter``."""

from collections import Counter

import numpy as np
import pytest
import torch

from quail_lightning.comparison import value_pairs
from quail_lightning.comparison.value_pairs import PairCounter


def words(values):
    return values.view(torch.int16).numpy().view(np.uint16)


def counted(first, second, piece=1000):
    counter = PairCounter(piece)
    counter.start(first.dtype, first.abs().max().item())
    for begin in range(0, len(first), piece):
        counter.add(*(words(weight[begin : begin + piece]) for weight in (first, second)))
    found = Counter()
    for before, after, times in counter.pairs():
        often = np.ones(len(before), int) if times is None else times
        for key in zip(before.tolist(), after.tolist(), often.tolist(), strict=True):
            found[key[:2]] += key[2]
    return found


def plain(first, second):
    return Counter(zip(words(first).tolist(), words(second).tolist(), strict=True))


def pair(dtype, size, scale=0.02):
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(20_500, generator=generator) * scale
    return first.to(dtype), (first + size * torch.randn(len(first), generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0, 5e-5, 1e-3, 1.0])
def test_every_pair_is_counted_as_often_as_it_occurs(dtype, size):
    assert counted(*pair(dtype, size)) == plain(*pair(dtype, size))


def test_near_pairs_that_are_equal_come_once():
    first, second = pair(torch.bfloat16, 5e-5)
    counter = PairCounter(len(first))
    counter.start(torch.bfloat16, first.abs().max().item())
    counter.add(words(first), words(second))
    near, far = counter.pairs()
    assert near[2].sum() + len(far[0]) == len(first)
    assert len(near[2]) + len(far[0]) < 0.6 * len(first)


@pytest.mark.parametrize("distance", [-33, -32, 31, 32])
@pytest.mark.parametrize("sign", [1, -1])
def test_both_ends_of_the_table(distance, sign):
    first = (sign * torch.tensor([2.0, 1.0, 1.0, 2.0**-15, 2.0**-16, 0.0])).bfloat16()
    second = torch.from_numpy(words(first).view(np.int16) + np.int16(distance)).view(torch.bfloat16)
    assert counted(first, second) == plain(first, second)


def test_signs_that_change_and_zeros_of_both_signs():
    first = torch.tensor([0.0, -0.0, 0.0, 1e-30, -1e-30, 0.5]).bfloat16()
    second = torch.tensor([0.0, 0.0, -0.0, -1e-30, 1e-30, -0.5]).bfloat16()
    assert counted(first, second) == plain(first, second)


def test_more_weights_than_keys_are_counted_in_turn(monkeypatch):
    monkeypatch.setattr(value_pairs, "CHUNK", 2500)
    assert counted(*pair(torch.bfloat16, 5e-5)) == plain(*pair(torch.bfloat16, 5e-5))


def test_a_new_start_forgets():
    counter = PairCounter(10)
    ones = torch.ones(4).bfloat16()
    for _ in range(2):
        counter.start(torch.bfloat16, 1.0)
        counter.add(words(ones), words(ones * 100))
        counter.add(words(ones), words(ones))
    near, far = counter.pairs()
    assert (near[2].tolist(), len(far[0])) == ([4], 4)
