"""A cache that is damaged, stale or unfinished is never used."""

import json
import re

import pytest
import torch

from quail_lightning.models.activations import activations
from quail_lightning.reference import CachedLogits, CachedStates, store
from quail_lightning.reference.manifest import fingerprint


def the_cache(folder):
    (cache,) = folder.iterdir()
    return cache


def truncate(cache):
    path = cache / "forget-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def edit_byte(cache):
    path = cache / "forget-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def edit_head(cache):
    path = cache / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def remove_shard(cache):
    (cache / "retain-00002.safetensors").unlink()


def edit_manifest(cache):
    path = cache / "manifest.json"
    content = json.loads(path.read_text())
    content["windows_per_shard"] = 4
    path.write_text(json.dumps(content))


def truncate_manifest(cache):
    path = cache / "manifest.json"
    path.write_text(path.read_text()[:-20])


def empty_manifest(cache):
    (cache / "manifest.json").write_text("[]")


def remove_manifest(cache):
    (cache / "manifest.json").unlink()


def other_format(cache):
    path = cache / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1', 1))


def other_cache(cache):
    """The manifest of another cache, whole in itself."""
    path = cache / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    content["fingerprint"] = "0" * 64
    content["sha256"] = fingerprint(content)
    path.write_text(json.dumps(content))


DAMAGES = [
    (truncate, r"forget-00001\.safetensors has \d+ bytes instead of \d+"),
    (edit_byte, r"forget-00001\.safetensors is damaged"),
    (edit_head, r"head\.safetensors is damaged"),
    (remove_shard, r"retain-00002\.safetensors is missing"),
    (edit_manifest, r"manifest\.json was edited"),
    (truncate_manifest, r"manifest\.json cannot be read"),
    (empty_manifest, r"manifest\.json is not of format version 2"),
    (remove_manifest, r"manifest\.json is missing"),
    (other_format, r"manifest\.json is not of format version 2"),
    (other_cache, r"manifest\.json is that of another cache \(0000"),
]


@pytest.mark.parametrize("kind", [CachedStates, CachedLogits])
@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_damaged_cache_is_made_good_and_a_line_says_why(kind, damage, reason, folder, again, capsys, contents):
    built, _ = again(kind, folder)
    whole = contents(folder)
    damage(the_cache(folder))
    capsys.readouterr()
    found, calls = again(kind, folder)
    assert calls == 1
    assert torch.equal(found, built)
    assert contents(folder) == whole
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "computed again" in line]
    assert re.search(reason, line)


def test_only_the_damaged_shard_is_computed_again(folder, again, arithmetic_of):
    again(CachedStates, folder)
    truncate(the_cache(folder))
    seen = []

    def forward(model, ids, layers):
        seen.append(ids)
        return activations(model, ids, layers)

    again(CachedStates, folder, arithmetic=arithmetic_of(forward=forward))
    assert len(seen) == 1


def test_build_that_was_killed_is_done_again(folder, again, prepare, tiny_llama, arithmetic_of, capsys, contents):
    batches = []

    def killed(model, ids, layers):
        batches.append(ids)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return activations(model, ids, layers)

    model = tiny_llama().train()
    with pytest.raises(KeyboardInterrupt):
        prepare(CachedStates(str(folder)), model, arithmetic=arithmetic_of(forward=killed))
    assert model.training
    assert "forget-00001.safetensors" in contents(folder)
    assert "manifest.json" not in contents(folder)
    found, calls = again(CachedStates, folder)
    assert calls == 1
    assert "manifest.json is missing (it was never finished)" in capsys.readouterr().err
    expected, _ = again(CachedStates, folder.with_name("elsewhere"))
    assert torch.equal(found, expected)


def test_file_half_written_leaves_nothing(folder, prepare, tiny_llama, monkeypatch, contents):
    def full(arrays, path, **_):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        prepare(CachedStates(str(folder)), tiny_llama())
    assert contents(folder) == {}


def test_leftovers_of_killed_builds_are_removed_once_they_are_old(folder, again, monkeypatch):
    again(CachedStates, folder)
    left = the_cache(folder) / ".forget-00000.safetensors.0123.partial"
    left.write_bytes(b"half")
    again(CachedStates, folder)
    assert left.exists()  # somebody may be writing it
    monkeypatch.setattr(store, "ABANDONED", -1.0)
    again(CachedStates, folder)
    assert not left.exists()
