"""The weights of a checkpoint, read from its safetensors files piece by piece.

Files are read, not mapped: pages of a mapped file count as the process's memory until it is closed.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.storage.readable import check_readable, damaged, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class StoredTensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
        dtype: the file's name of it (``BF16``, ``U8``, ...).
        shape: its sizes.
        file: its shard.
        offset: of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int


class WeightFiles:
    """A checkpoint's tensors by name; may be read by several threads at once.

    Args:
        name_or_path: a folder in Hugging Face format, or a name on the hub, whose weights are then fetched.

    Raises:
        InputError: no such folder, no safetensors in it, shards missing, or a damaged file.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.folder = _folder(name_or_path)
        self.stored: dict[str, StoredTensor] = {}
        for file in shards(self.folder):
            tensors = tensors_in(file)
            if twice := sorted(self.stored.keys() & tensors.keys()):
                raise damaged(file, f"{twice[0]} lies in {self.stored[twice[0]].file.name} too")
            self.stored |= tensors
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> WeightFiles:
        for file in {tensor.file for tensor in self.stored.values()}:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Sizes of every tensor."""
        return {name: tensor.shape for name, tensor in self.stored.items()}

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor.

        Raises:
            InputError: no floating one: the checkpoint is quantized already.
        """
        stored = self.stored[name]
        if stored.dtype not in DTYPES:
            raise InputError(
                f"{name} in {self.name} is stored as {stored.dtype}, so this checkpoint is quantized already",
                allowed=", ".join(DTYPES),
                remedy="Name the checkpoint before quantization",
            )
        return DTYPES[stored.dtype]

    def read(self, name: str, start: int, stop: int, buffer: bytearray | None = None) -> Tensor:
        """Values ``start`` … ``stop`` of a tensor in memory order: [stop − start], in the stored dtype.

        Args:
            name: the tensor.
            start: first value.
            stop: behind the last one.
            buffer: memory to read into, which the result then shares; new if not given.

        Raises:
            InputError: the file ends before the tensor does.
        """
        stored, dtype = self.stored[name], self.dtype(name)
        wanted = (stop - start) * dtype.itemsize
        memory = bytearray(wanted) if buffer is None else buffer
        view, position = memoryview(memory)[:wanted], stored.offset + start * dtype.itemsize
        while view:
            found = os.preadv(self._descriptors[stored.file], [view], position)
            if not found:
                raise damaged(stored.file, "it ends within a tensor")
            view, position = view[found:], position + found
        return torch.frombuffer(memory, dtype=dtype, count=stop - start)


def _folder(name_or_path: str) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name_or_path, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HFValidationError) as error:
        raise InputError(
            f"no checkpoint {name_or_path!r}: it is no folder here and could not be fetched from the hub",
            allowed="a folder in Hugging Face format with safetensors weights, or a name on the hub",
        ) from error


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint's folder as transformers chooses them: ``model.safetensors``, or else those
    that the index names, which may lie in subfolders.

    Raises:
        InputError: there are none, some are missing, or the index is damaged.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() or single.is_symlink():
        if index.exists() and (others := [path for path in _indexed(index) if path != single and path.exists()]):
            raise InputError(
                f"{folder} holds two models: {SINGLE}, and {others[0].name} with what else {INDEX} names",
                remedy="Remove one of the two",
            )
        return [single]
    if not index.exists() and not index.is_symlink():
        if (folder / ADAPTER).exists():
            raise InputError(
                f"{folder} is an adapter, whose weights lie in no file before they are merged with its base's",
                remedy=f"Write the merged model and name that: quail quantize {folder} --to bf16 --out NEW_FOLDER",
            )
        raise InputError(
            f"{folder} is no checkpoint in Hugging Face format: there are no safetensors weights in it, "
            f"neither {SINGLE} nor {INDEX}",
            remedy="`quail fit` and `quail finetune` write such folders; save pickled weights anew as safetensors",
        )
    files = _indexed(index)
    if missing := [str(path.relative_to(folder)) for path in files if not path.exists()]:
        raise InputError(
            f"{folder} lacks {len(missing)} of its {len(files)} shards: {', '.join(missing)}",
            remedy="Copy or download them again",
        )
    return files


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, there or not."""
    content = read_json(index)
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise damaged(index, "it says of no tensor in which file it lies")
    names = sorted(set(placed.values()))
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise damaged(index, f"it names a file outside of its folder ({outside[0]})")
    return [index.parent / name for name in names]


def tensors_in(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file: eight bytes with the header's length, the header in JSON, then the data."""
    from safetensors import SafetensorError, safe_open

    check_readable(file)
    try:
        with safe_open(file, framework="pt"):
            pass  # the library's own rules: offsets without gaps, nothing behind the last tensor, ...
    except (SafetensorError, OSError) as error:
        raise damaged(file, _explained(file, str(error).splitlines()[0])) from error
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        described: dict[str, Any] = json.loads(content.read(length))
    described.pop("__metadata__", None)
    return {
        name: StoredTensor(entry["dtype"], tuple(entry["shape"]), file, 8 + length + entry["data_offsets"][0])
        for name, entry in described.items()
    }


def _explained(file: Path, said: str) -> str:
    """Why the library refuses a file, by tensor or by size where that can be told; otherwise in its own words."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 0 < length <= size - 8:
            return f"it has no safetensors header, or ends within it ({size:,} bytes)"
        try:
            described: dict[str, Any] = json.loads(content.read(length))
            described.pop("__metadata__", None)
            for name, entry in described.items():
                begin, stop = entry["data_offsets"]
                if entry["dtype"] in DTYPES and stop - begin != DTYPES[entry["dtype"]].itemsize * math.prod(
                    entry["shape"]
                ):
                    return f"{name} has another size than its shape says"
            end = 8 + length + max((entry["data_offsets"][1] for entry in described.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return said
    return said if size == end else f"it has {size:,} of {end:,} bytes"
