from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from quail_lightning.inference.sampling import Sampling, completed, draw, generators, probabilities


def test_temperature_divides_the_logits_and_top_k_cuts_the_rest() -> None:
    logits = 0.9 * torch.tensor([[1.0, 2.0, 5.0]]).log()
    whole = probabilities(logits, Sampling(0.9, top_k=0, top_p=1.0))
    torch.testing.assert_close(whole, torch.tensor([[1 / 8, 2 / 8, 5 / 8]]))
    two = probabilities(logits, Sampling(0.9, top_k=2, top_p=1.0))
    torch.testing.assert_close(two, torch.tensor([[0.0, 2 / 7, 5 / 7]]))


def test_top_p_keeps_the_likeliest_that_reach_it() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    kept = probabilities(logits, Sampling(1.0, top_k=0, top_p=0.6))
    torch.testing.assert_close(kept, torch.tensor([[0.0, 5 / 8, 3 / 8]]))


def test_what_is_left_open_is_the_checkpoints_own_else_the_librarys_default() -> None:
    assert completed(Sampling(), None) == Sampling(0.9, 50, 1.0)
    assert completed(Sampling(), SimpleNamespace(top_k=None, top_p=0.6)) == Sampling(0.9, 50, 0.6)
    assert completed(Sampling(top_k=3), SimpleNamespace(top_k=7, top_p=None)) == Sampling(0.9, 3, 1.0)


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.2, 0.8]]).log().repeat(2000, 1)
    drawn = draw(logits, Sampling(1.0, 0, 1.0), generators(Sampling(), range(2000)))
    assert sum(drawn) / 2000 == pytest.approx(0.8, abs=0.04)
