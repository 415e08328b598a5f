"""A cache that does not fit on the disk is refused before anything is written."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.reference import CachedLogits, CachedStates, Request, Sizes

GIB = 2**30
NEWS = {"forget": Request(torch.zeros(400, 2048, dtype=torch.int64), frozenset({"logits"}))}
LLAMA = Sizes(vocabulary=32_000, width=4096)


@pytest.fixture
def free_disk(monkeypatch):
    """Sets the free bytes that the disk reports."""

    def set_free(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    return set_free


def test_logits_that_do_not_fit_are_refused_with_sizes_and_remedies(tmp_path, free_disk):
    free_disk(40 * GIB)
    # 400 · 2,047 · 32,000 · 2 bytes are 48.8 GiB; with width 4,096, and a head of 32,000 · 4,096 · 2, 6.5 GiB
    with pytest.raises(
        InputError,
        match=r"needs 48\.8 GiB and the disk of .* has 40\.0 GiB free.*init_args\.folder.*"
        r"CachedStates: the same logits from 6\.5 GiB.*LiveReference",
    ):
        CachedLogits(str(tmp_path / "caches")).check(NEWS, LLAMA, torch.bfloat16)
    CachedStates(str(tmp_path / "caches")).check(NEWS, LLAMA, torch.bfloat16)
    free_disk(49 * GIB)
    CachedLogits(str(tmp_path / "caches")).check(NEWS, LLAMA, torch.bfloat16)
    assert not list(tmp_path.iterdir())


def test_layers_and_likelihoods_count(tmp_path, free_disk):
    request = NEWS["forget"]._replace(frozen=frozenset({"likelihood", "layers"}), layers=(3, 7))
    need = 400 * (2047 * 4 + 2 * 2048 * 4096 * 2)
    free_disk(need)
    CachedStates(str(tmp_path)).check({"retain": request}, LLAMA, torch.bfloat16)
    free_disk(need - 1)
    with pytest.raises(InputError, match=r"needs 12\.5 GiB"):
        CachedStates(str(tmp_path)).check({"retain": request}, LLAMA, torch.bfloat16)


@pytest.mark.parametrize("kind", [CachedStates, CachedLogits])
def test_disk_too_small_is_seen_before_anything_is_written(kind, folder, prepare, tiny_llama, free_disk):
    free_disk(1000)
    with pytest.raises(InputError, match=r"has 0\.0 MiB free"):
        prepare(kind(str(folder)), tiny_llama())
    assert not folder.exists()


def test_cache_that_is_there_needs_no_room(folder, again, free_disk, requests_of):
    again(CachedStates, folder)
    free_disk(0)
    CachedStates(str(folder)).check(requests_of(), Sizes(64, 64), torch.float32)
    _, calls = again(CachedStates, folder)
    assert calls == 0


@pytest.mark.parametrize(("kind", "head"), [(CachedStates, 64 * 64 * 4), (CachedLogits, 0)])
def test_announced_size_is_that_of_the_files(kind, head, folder, again, capsys, contents):
    again(kind, folder)
    told = float(re.search(r"takes ([\d.]+) MiB", capsys.readouterr().err).group(1))
    arrays = 12 * (8 * 64 * 4 + 8 * 4 + 2 * 9 * 64 * 4) + head  # width and vocabulary are both 64
    assert told == pytest.approx(arrays / 2**20, abs=0.05)
    files = sum(len(content) for name, content in contents(folder).items() if name != "manifest.json")
    assert arrays < files < arrays + 8 * 600  # 8 headers


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="at or below a file"):
        CachedStates(str(tmp_path / "file" / "caches")).check(NEWS, LLAMA, torch.bfloat16)
