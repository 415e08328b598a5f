"""A cache on disk: built once, shared by all runs that want the same."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import masked
from quail_lightning.reference import CachedLogits, CachedStates, layout

TRY = """
import pathlib, sys
from quail_lightning.storage.locks import hold
hold(pathlib.Path(sys.argv[1]), "the cache")
"""
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
        "forget.likelihood": (1, 8),
        "forget.layer0": (1, 9, 64),
        "forget.layer1": (1, 9, 64),
    }


def test_shards_take_whole_batches_up_to_their_size(folder, again, monkeypatch):
    window = 8 * 64 * 4 + 8 * 4 + 2 * 9 * 64 * 4  # states, likelihoods, two layers, in float32
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


def modes(folder):
    paths = [folder, *folder.rglob("*")]
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in paths}


@KINDS
def test_a_cache_is_its_owners_alone_also_one_that_was_open_to_others(kind, folder, again):
    before = os.umask(0)
    try:
        again(kind, folder)
        wanted = {"0o700", "0o600"}
        assert set(modes(folder).values()) == wanted
        the_cache(folder).chmod(0o777)  # as an earlier version left it
        again(kind, folder)
        assert modes(folder)[the_cache(folder).name] == "0o700"
    finally:
        os.umask(before)


def test_a_cache_in_use_is_locked_against_removal(folder, again):
    again(CachedStates, folder)
    held = subprocess.run(
        [sys.executable, "-c", TRY, str(the_cache(folder))], cwd=Path(__file__).parents[3], capture_output=True
    )
    assert f"in use by process {os.getpid()}" in held.stderr.decode()


def test_anothers_cache_is_named(folder, again, monkeypatch):
    again(CachedStates, folder)
    read = Path.read_bytes

    def denied(path):
        if path.name == "manifest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"private to the account that built it.*init_args\.folder"):
        again(CachedStates, folder)


def test_a_mask_makes_another_cache_of_the_same_outputs(tmp_path, requests_of, batch_of, prepare, tiny_llama):
    """The key holds the labels; what the model reads does not depend on them."""
    requests, model = requests_of(), tiny_llama().eval()
    learned = torch.arange(9) > 4
    hidden = {side: asked._replace(windows=masked(asked.windows, learned)) for side, asked in requests.items()}
    found = []
    for asked in (requests, hidden):
        reference = prepare(CachedStates(str(tmp_path)), model, asked)
        outputs = reference.outputs("forget", batch_of("forget", [0, 5]))
        found.append((reference.fingerprint, outputs.rows(slice(0, 16)), outputs.likelihood))
    assert found[0][0] != found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2])


@KINDS
def test_a_batch_that_was_cut_is_given_the_outputs_up_to_there(kind, folder, batch_of, prepare, tiny_llama):
    reference = prepare(kind(str(folder)), tiny_llama().eval())
    whole = batch_of("forget", [6, 1, 3])  # of three shards
    cut = TokenBatch(whole.input_ids[:, :5], whole.labels[:, :5], whole.window)
    every, found = (reference.outputs("forget", batch) for batch in (whole, cut))
    expected = every.rows(slice(0, 24)).unflatten(0, (3, 8))[:, :4].flatten(0, 1)
    assert torch.equal(found.rows(slice(0, 12)), expected)
    assert torch.equal(found.rows(slice(2, 7)), expected[2:7])
    assert torch.equal(found.layers[1], every.layers[1][:, :5])
    logs = expected.unflatten(0, (3, 4)).log_softmax(-1)
    likelihood = logs.gather(-1, cut.input_ids[:, 1:, None]).sum((1, 2))
    assert torch.allclose(found.likelihood, likelihood, atol=1e-5)
