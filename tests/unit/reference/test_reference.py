"""Cached and live reference give the target's logits."""

import pytest
import torch
from torch import nn

from quail_lightning.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.reference import CachedLogits, LiveReference


@pytest.fixture
def target():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11)).requires_grad_(False)


def forward(model, ids):
    return model(ids)


WINDOWS = torch.arange(30).view(6, 5) % 11


def batch(numbers):
    ids = WINDOWS[numbers]
    return TokenBatch(ids, ids, torch.tensor(numbers))


@pytest.mark.parametrize("kind", [CachedLogits, LiveReference])
def test_reference_gives_the_targets_logits_of_the_windows_asked_for(kind, target):
    reference = kind()
    reference.prepare(target, WINDOWS, forward, batch_size=4)
    expected = torch.stack([target[1](target[0](WINDOWS[number])) for number in (5, 0, 3)])
    torch.testing.assert_close(reference.logits(batch([5, 0, 3])), expected)


def test_cache_lets_go_of_the_target_and_keeps_its_first_logits(target):
    reference = CachedLogits()
    reference.prepare(target, WINDOWS, forward, batch_size=2)
    before = reference.logits(batch([1])).clone()
    target[1].weight.add_(1.0)
    assert torch.equal(reference.logits(batch([1])), before)


def test_cache_that_does_not_fit_is_refused_with_size_and_remedy():
    windows = torch.zeros(400, 2048, dtype=torch.int64)  # 400 · 2,048 · 32,000 · 2 bytes are 48.8 GiB
    with pytest.raises(InputError, match=r"400 forget windows would take 48\.8 GiB.*max_gib: 8.*LiveReference"):
        CachedLogits(max_gib=8).check(windows, vocabulary=32_000, bytes_per_logit=2)
    CachedLogits(max_gib=49).check(windows, vocabulary=32_000, bytes_per_logit=2)


def test_preparing_again_replaces_what_was_kept(target):
    reference = CachedLogits()
    reference.prepare(target, WINDOWS, forward, batch_size=4)
    reference.prepare(target, WINDOWS[3:], forward, batch_size=4)
    torch.testing.assert_close(reference.logits(batch([0])), target(WINDOWS[3:4]))
