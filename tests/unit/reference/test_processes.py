"""Several processes build one cache together; several runs build it at the same time."""

import threading

import pytest
import torch

from quail_lightning.models.activations import activations
from quail_lightning.reference import CachedStates
from quail_lightning.run.processes import Processes


def together(count, run):
    """Runs ``run(rank, processes)`` in as many threads as there are processes; what they gave."""
    barrier, results = threading.Barrier(count, timeout=30), [None] * count

    def one(rank):
        results[rank] = run(rank, Processes(rank, count, barrier.wait))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert all(result is not None for result in results)
    return results


def empty_shard(cache):
    (cache / "forget-00001.safetensors").write_bytes(b"")


def remove_shard(cache):
    (cache / "retain-00002.safetensors").unlink()


def remove_manifest(cache):
    (cache / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [None, empty_shard, remove_shard, remove_manifest])
def test_processes_share_the_work_and_make_the_same_cache(
    damage, folder, again, prepare, tiny_llama, arithmetic_of, contents, values
):
    expected, _ = again(CachedStates, folder.with_name("alone"))
    computed = [0, 0]
    models = [tiny_llama(), tiny_llama()]  # not in the threads, which share one random state

    def prepare_one(rank, processes):
        def forward(model, ids, layers):
            computed[rank] += 1
            return activations(model, ids, layers)

        reference = CachedStates(str(folder))
        prepare(reference, models[rank], arithmetic=arithmetic_of(forward=forward), processes=processes)
        return values(reference)

    if damage is not None:
        together(2, prepare_one)
        (cache,) = folder.iterdir()
        damage(cache)
        computed[:] = 0, 0
    results = together(2, prepare_one)
    assert all(torch.equal(result, expected) for result in results)
    assert contents(folder) == contents(folder.with_name("alone"))
    assert sum(computed) == {None: 7, empty_shard: 1, remove_shard: 1, remove_manifest: 7}[damage]
    if damage is None:
        assert sorted(computed) == [3, 4]


def test_two_runs_may_build_one_cache_at_the_same_time(folder, prepare, tiny_llama, again, values):
    models = [tiny_llama(), tiny_llama()]

    def run(rank, _):
        return values(prepare(CachedStates(str(folder)), models[rank]))

    one, other = together(2, run)
    assert torch.equal(one, other)
    found, calls = again(CachedStates, folder)
    assert calls == 0
    assert torch.equal(found, one)
