"""A cache on disk: built once, shared by all runs that want the same."""

import pytest
import torch
from safetensors.torch import load_file

from quail_lightning.reference import CachedLogits, CachedStates, layout

KINDS = pytest.mark.parametrize("kind", [CachedStates, CachedLogits])


def the_cache(folder):
    (cache,) = folder.iterdir()
    return cache


@KINDS
def test_cache_is_built_once_and_announced(kind, folder, again, capsys, contents):
    built, calls = again(kind, folder)
    assert calls == 1
    assert "takes 0." in capsys.readouterr().err
    before = contents(folder)
    found, calls = again(kind, folder)
    assert calls == 0
    assert torch.equal(found, built)
    assert contents(folder) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{the_cache(folder)}: complete, and used again" in said


def test_cache_holds_its_manifest_and_safetensors_only(folder, again, contents):
    again(CachedStates, folder)
    assert sorted(contents(folder)) == [
        *(f"forget-0000{number}.safetensors" for number in range(4)),
        "head.safetensors",
        "manifest.json",
        *(f"retain-0000{number}.safetensors" for number in range(3)),
    ]
    shard = load_file(the_cache(folder) / "forget-00003.safetensors")
    assert {name: tuple(array.shape) for name, array in shard.items()} == {
        "forget.final": (1, 8, 64),
        "forget.likelihood": (1,),
        "forget.layer0": (1, 9, 64),
        "forget.layer1": (1, 9, 64),
    }


def test_shards_take_whole_batches_up_to_their_size(folder, again, monkeypatch):
    window = 8 * 64 * 4 + 4 + 2 * 9 * 64 * 4  # states, likelihood, two layers, in float32
    monkeypatch.setattr(layout, "SHARD_BYTES", 5 * window)
    again(CachedStates, folder)
    sizes = [
        len(load_file(the_cache(folder) / f"forget-0000{number}.safetensors")["forget.final"]) for number in (0, 1)
    ]
    assert sizes == [4, 3]


def test_likelihood_alone_keeps_neither_states_nor_head(folder, prepare, tiny_llama, requests_of, contents):
    prepare(CachedStates(str(folder)), tiny_llama(), requests_of(forget=("likelihood",), retain=()))
    assert "head.safetensors" not in contents(folder)
    assert list(load_file(the_cache(folder) / "forget-00000.safetensors")) == ["forget.likelihood"]


def test_every_change_of_what_a_cache_depends_on_makes_another(folder, again, requests_of, arithmetic_of, windows):
    other = windows["forget"].clone()
    other[3, 4] = (other[3, 4] + 1) % 64
    both = requests_of()
    changes = [
        {},
        {"requests": both | {"forget": both["forget"]._replace(windows=other)}},
        {"requests": both | {"forget": both["forget"]._replace(layers=(1,))}},
        {"requests": {"forget": both["forget"]}},
        {"identity": {"target": "abd"}},
        {"arithmetic": arithmetic_of(dtype=torch.bfloat16)},
        {"arithmetic": arithmetic_of(batch_size=3)},
    ]
    for number, change in enumerate(changes, start=1):
        _, calls = again(CachedStates, folder, **change)
        assert calls == 1
        assert len(list(folder.iterdir())) == number
    again(CachedLogits, folder)
    assert len(list(folder.iterdir())) == len(changes) + 1
    _, calls = again(CachedStates, folder)
    assert calls == 0  # the first is still there
