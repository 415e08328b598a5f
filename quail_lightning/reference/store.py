"""Arrays on disk: memory-mapped safetensors shards of a few windows each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quail_lightning.functional.head import Head
from quail_lightning.storage.durable import partial_name
from quail_lightning.storage.privacy import make_private, private_folder

HEAD = "head.safetensors"
ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's any more; writing one takes seconds


class Store:
    """The arrays of a finished cache, memory-mapped; nothing of them is kept in main memory.

    Array ``forget.final`` [windows, ...] lies in ``forget-00000.safetensors``, ``forget-00001.safetensors``, ….

    Args:
        folder: of the cache.
        files: names of its shards.
        windows_per_shard: windows in each file of a set but its last.
    """

    def __init__(self, folder: Path, files: Iterable[str], windows_per_shard: int) -> None:
        self._files = {name: safe_open(folder / name, framework="pt") for name in files}
        self._windows_per_shard = windows_per_shard

    def windows(self, array: str, windows: Sequence[int], length: int) -> Tensor:
        """[batch, length, ...] rows of an array [windows, time, ...], cut, copied into main memory."""
        found = (self._row(array, window) for window in windows)
        return torch.cat([part[row : row + 1, :length] for part, row in found])

    def tokens(self, array: str, windows: Sequence[int], length: int, tokens: slice) -> Tensor:
        """[n, entries] of the flattened [batch · length, entries] rows of an array [windows, time, entries], cut.

        Only the tokens asked for are read.
        """
        start, stop, _ = tokens.indices(len(windows) * length)
        found = []
        while start < stop:
            window, first = divmod(start, length)
            last = min(length, first + stop - start)
            part, row = self._row(array, windows[window])
            found.append(part[row : row + 1, first:last][0])
            start += last - first
        return torch.cat(found)

    def _row(self, array: str, window: int) -> tuple[Any, int]:
        shard, row = divmod(window, self._windows_per_shard)
        return self._files[shard_name(array.partition(".")[0], shard)].get_slice(array), row


def shard_name(side: str, number: int) -> str:
    """File of a set's ``number``-th shard."""
    return f"{side}-{number:05d}.safetensors"


def write_shard(path: Path, arrays: dict[str, Tensor]) -> None:
    """Write one shard.

    Args:
        path: of the file.
        arrays: name → [windows, ...] in main memory.
    """
    write_whole(path, lambda partial: save_file(arrays, partial))


def write_head(path: Path, head: Head) -> None:
    """Write a copy of the head's parameters."""
    given = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in given.items()}
    numbers = {"numbers": json.dumps({"scale": head.scale, "softcap": head.softcap})}
    write_whole(path, lambda partial: save_file(tensors, partial, metadata=numbers))


def read_head(path: Path, device: torch.device) -> Head:
    """The head that ``write_head`` wrote, copied to a device."""
    with safe_open(path, framework="pt") as file:
        numbers = json.loads(file.metadata()["numbers"])
        tensors = {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    return Head(**tensors, **numbers)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a private file under a name of its own, then rename it: whoever looks finds all of it or nothing."""
    private_folder(path.parent, path.parent.parent)
    partial = partial_name(path)
    try:
        write(partial)
        make_private(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Delete what killed builds left half written; the files of a build under way are younger."""
    for path in (*folder.glob(".*.partial"), *folder.glob(".tmp*")):  # the latter are safetensors' own
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED:
                path.unlink()
