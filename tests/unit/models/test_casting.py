"""The cast of a sharded weight is the shard of the whole weight's cast."""

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import CommDebugMode

from quail_lightning.models import casting
from quail_lightning.models.casting import Cast

STOCHASTIC = Cast(torch.bfloat16, "stochastic", seed=4)


def weights(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(6, 5), (7,), (4, 3, 2)])
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_each_process_casts_its_own_rows_as_they_are_in_the_whole(shape, rounding, monkeypatch):
    cast, whole = Cast(torch.bfloat16, rounding, seed=4), weights(*shape)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        # the rows of a second process, as its shard holds them
        spread = DTensor.from_local(whole[3:], mesh, [Shard(0)])
        monkeypatch.setattr(casting, "own_rows", lambda _: slice(3, len(whole)))
        with CommDebugMode() as exchanged:
            found = cast("layer.weight", spread)
        assert exchanged.get_total_counts() == 0, "nothing is gathered"
        assert isinstance(found, DTensor)
        assert torch.equal(found.to_local(), cast_of_whole(cast, whole, monkeypatch)[3:])
    finally:
        distributed.destroy_process_group()


def cast_of_whole(cast, whole, monkeypatch):
    monkeypatch.setattr(casting, "own_rows", lambda _: slice(0, len(whole)))
    return cast("layer.weight", whole)


def test_draws_follow_from_seed_and_name_and_the_result_is_new():
    whole = weights(40, 30)
    first = STOCHASTIC("a", whole)
    assert torch.equal(first, STOCHASTIC("a", whole))
    assert not torch.equal(first, STOCHASTIC("b", whole))
    assert not torch.equal(first, Cast(torch.bfloat16, "stochastic", seed=5)("a", whole))
    for cast, weight in ((Cast(torch.float32), whole), (STOCHASTIC, first)):
        copied = cast("a", weight)
        assert torch.equal(copied, weight)
        assert copied.data_ptr() != weight.data_ptr()


def test_many_updates_below_half_a_step_arrive_in_the_mean_and_vanish_to_the_nearest():
    start = weights(200, 500).to(torch.bfloat16).float()
    step = 2.0 ** (torch.floor(torch.log2(start.abs())) - 7)
    trained = start + 0.1 * step  # a tenth of a step, all one way
    arrived = {
        rounding: (Cast(torch.bfloat16, rounding)("w", trained).float() - start).double().sum()
        / (trained - start).double().sum()
        for rounding in ("nearest", "stochastic")
    }
    assert arrived["nearest"] == 0
    assert arrived["stochastic"] == pytest.approx(1, abs=0.05)
