"""The order in which windows are visited."""

from collections import Counter

import pytest
import torch
from torch.utils.data.distributed import DistributedSampler

from quail_lightning.data.forget_retain import EveryWindow, ForgetRetainWindows, StepSampler, step_loader


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_every_forget_window_is_visited_once_an_epoch_with_as_many_retain_windows(schedule):
    steps = epoch(StepSampler(7, 30, 3, schedule, seed=0), 0)
    assert [len(forget) for forget, _ in steps] == [3, 3, 1]
    assert [len(retain) for _, retain in steps] == [3, 3, 1]
    assert sorted(window for forget, _ in steps for window in forget) == list(range(7))


def test_the_whole_retain_set_is_walked_through_across_epochs_before_any_window_returns():
    sampler = StepSampler(4, 10, 2, "alternate", seed=0)
    walked = [window for number in range(5) for _, retain in epoch(sampler, number) for window in retain]
    assert sorted(walked[:10]) == list(range(10))  # 4 + 4 + 2 windows: one pass ends inside the third epoch
    assert sorted(walked[10:]) == list(range(10))


def test_a_retain_set_smaller_than_the_forget_set_is_repeated_evenly():
    sampler = StepSampler(9, 3, 2, "joint", seed=0)
    counts = Counter(window for _, retain in epoch(sampler, 0) for window in retain)
    assert counts == {0: 3, 1: 3, 2: 3}


def test_epoch_schedule_visits_all_forget_batches_then_all_retain_batches():
    sampler = StepSampler(5, 8, 2, "epoch", seed=0)
    steps = epoch(sampler, 0)
    assert len(sampler) == len(steps) == 3 + 4
    assert all(retain == [] for _, retain in steps[:3])
    assert all(forget == [] for forget, _ in steps[3:])
    assert sorted(window for _, retain in steps for window in retain) == list(range(8))


def test_order_depends_on_seed_and_epoch_alone():
    same = [epoch(StepSampler(20, 20, 4, "joint", seed=1), 3) for _ in range(2)]
    torch.manual_seed(123)
    assert epoch(StepSampler(20, 20, 4, "joint", seed=1), 3) == same[0] == same[1]
    assert epoch(StepSampler(20, 20, 4, "joint", seed=2), 3) != same[0]
    assert epoch(StepSampler(20, 20, 4, "joint", seed=1), 4) != same[0]


def test_batch_carries_the_windows_their_numbers_and_labels_equal_to_the_input():
    forget, retain = torch.arange(12).view(4, 3), 100 + torch.arange(9).view(3, 3)
    batch = ForgetRetainWindows(forget, retain)[([2, 0], [1])]
    assert batch.forget.input_ids.tolist() == [[6, 7, 8], [0, 1, 2]]
    assert batch.forget.window.tolist() == [2, 0]
    assert torch.equal(batch.forget.labels, batch.forget.input_ids)
    assert batch.retain.input_ids.tolist() == [[103, 104, 105]]


def test_an_empty_side_of_a_batch_is_none():
    batch = ForgetRetainWindows(*torch.zeros(2, 2, 3, dtype=torch.int64))[([], [1])]
    assert batch.forget is None
    assert batch.retain is not None


@pytest.mark.parametrize("schedule", ["joint", "alternate", "epoch"])
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(schedule):
    assert epoch(StepSampler(7, 9, 2, schedule, 0, processes=2), 1) == epoch(StepSampler(7, 9, 4, schedule, 0), 1)


def test_validation_visits_every_window_once_however_many_processes_share_a_step():
    expected = [([0, 1, 2, 3], []), ([4], []), ([], [0, 1, 2])]
    assert list(EveryWindow(5, 3, 2, processes=2)) == list(EveryWindow(5, 3, 4)) == expected
    assert len(EveryWindow(5, 3, 4)) == 3


def test_lightning_leaves_the_samplers_alone():
    """It replaces any other kind under several processes, and would hand each step to one of them."""
    for sampler in (StepSampler(7, 9, 2, "joint", 0), EveryWindow(7, 9, 2)):
        assert isinstance(sampler, DistributedSampler)


def test_order_is_the_same_with_worker_processes():
    windows = ForgetRetainWindows(torch.arange(10).reshape(5, 2), torch.arange(14).reshape(7, 2))
    orders = []
    for workers in (0, 2):
        sampler = StepSampler(5, 7, 2, "alternate", seed=3)
        loader = step_loader(windows, sampler, workers)
        order = []
        for epoch in range(2):
            epoch_of_it = iter(loader)  # Lightning makes the iterator before it tells the sampler the epoch
            sampler.set_epoch(epoch)
            order += [(batch.forget.window.tolist(), batch.retain.window.tolist()) for batch in epoch_of_it]
        orders.append(order)
    assert orders[0] == orders[1]
    assert orders[0][:3] != orders[0][3:]


def test_a_resumed_loader_leaves_out_what_was_handed_out_and_only_in_that_epoch():
    windows = ForgetRetainWindows(torch.arange(10).reshape(5, 2), torch.arange(14).reshape(7, 2))

    def loader():
        return step_loader(windows, StepSampler(5, 7, 2, "epoch", seed=3))

    def numbers(batches):
        return [[None if side is None else side.window.tolist() for side in batch] for batch in batches]

    whole = numbers(loader())
    cut = loader()
    batches = iter(cut)
    for _ in range(4):
        next(batches)
    resumed = loader()
    resumed.load_state_dict(cut.state_dict())
    assert len(resumed) == len(whole)
    assert numbers(resumed) == whole[4:]
    assert resumed.state_dict() == {"batches": len(whole)}
    assert numbers(resumed) == whole


def test_loading_draws_nothing_from_the_global_random_state():
    windows = ForgetRetainWindows(torch.arange(10).reshape(5, 2), torch.arange(14).reshape(7, 2))
    before = torch.get_rng_state()
    list(step_loader(windows, StepSampler(5, 7, 2, "joint", seed=3)))
    assert torch.equal(torch.get_rng_state(), before)
