"""Who has more passes to make than the others makes them; the others keep step until all wait."""

import threading

import pytest
import torch

from quail_lightning.models import lockstep
from quail_lightning.models.lockstep import Lockstep, in_step
from quail_lightning.run.processes import Processes

LONG = 60  # seconds; who waits longer for the others waits for ever


def together(count, run, monkeypatch):
    """``run(processes, all_take_part)`` in threads; ``all_take_part`` returns once every thread has called it."""
    meeting, counts, told = threading.Barrier(count, timeout=LONG), [0] * count, [None] * count
    results, own = [None] * count, threading.local()

    def exchange(values, value):
        values[own.rank] = value
        meeting.wait()
        everyone = list(values)
        meeting.wait()
        return everyone

    def sum_over_processes(tensors):
        for tensor in tensors:
            tensor.fill_(sum(exchange(counts, int(tensor))))

    monkeypatch.setattr(lockstep, "sum_over_processes", sum_over_processes)

    def one(rank):
        own.rank = rank
        processes = Processes(rank, count, meeting.wait, lambda value: exchange(told, value))
        try:
            results[rank] = run(processes, lambda: exchange(told, "a pass"))
        except BaseException as error:
            results[rank] = error
            meeting.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG)
    return results


@pytest.mark.parametrize("passes", [(5, 2), (0, 3), (2, 2), (1, 4, 0)])
def test_every_pass_is_made_by_all_and_nobody_makes_more_than_the_busiest_needs(passes, monkeypatch):
    def run(processes, all_take_part):
        made = [0]

        def dummy():
            taken = all_take_part()
            assert taken == ["a pass"] * processes.world_size, "not all are in the pass"
            made[0] += 1

        step = Lockstep(processes, dummy, torch.device("cpu"))
        for _ in range(passes[processes.rank]):
            step.announce()
            assert all_take_part() == ["a pass"] * processes.world_size
        return step.processes().gather(processes.rank), made[0]

    found = together(len(passes), run, monkeypatch)
    everyone = list(range(len(passes)))
    assert found == [(everyone, max(passes) - own) for own in passes]


def test_the_barrier_keeps_step_as_well(monkeypatch):
    def run(processes, all_take_part):
        made = []
        step = Lockstep(processes, lambda: made.append(all_take_part()), torch.device("cpu"))
        if processes.rank:
            step.announce()
            all_take_part()
        step.processes().barrier()
        return len(made)

    assert together(2, run, monkeypatch) == [1, 0]


def test_a_whole_model_needs_no_step(tiny_llama):
    processes = Processes()
    with in_step(tiny_llama(), processes) as asked:
        assert asked is processes
