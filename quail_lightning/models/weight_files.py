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

INDEX = "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LONGEST_HEADER = 100_000_000  # bytes, the limit of the format


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
        for file in _shards(self.folder):
            self.stored |= _header(file)
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
                raise _damaged(stored.file, "it ends within a tensor")
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


def _shards(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file() and not (folder / INDEX).is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        raise InputError(
            f"{folder} is no checkpoint in Hugging Face format: neither model.safetensors nor {INDEX} is in it",
            remedy="`quail fit` and `quail finetune` write such folders",
        )
    names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(
            f"{folder} lacks {len(missing)} of its {len(names)} shards: {', '.join(missing)}",
            remedy="Copy or download them again",
        )
    return [folder / name for name in names]


def _header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file: eight bytes with the header's length, the header in JSON, then the data."""
    size = file.stat().st_size
    with file.open("rb") as content:
        prefix = content.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(LONGEST_HEADER, size - 8):
            raise _damaged(file, "it has no safetensors header")
        try:
            described: dict[str, Any] = json.loads(content.read(length))
            described.pop("__metadata__", None)
            found = {
                name: StoredTensor(
                    entry["dtype"], tuple(entry["shape"]), file, 8 + length + entry["data_offsets"][0]
                )
                for name, entry in described.items()
            }
            end = 8 + length + max((entry["data_offsets"][1] for entry in described.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(file, "its safetensors header cannot be read") from error
    if end > size:
        raise _damaged(file, f"it has {size:,} of {end:,} bytes")
    for name, entry in described.items():
        width = DTYPES[entry["dtype"]].itemsize if entry["dtype"] in DTYPES else None
        begin, stop = entry["data_offsets"]
        if width is not None and stop - begin != width * math.prod(entry["shape"]):
            raise _damaged(file, f"{name} has another size than its shape says")
    return found


def _damaged(file: Path, what: str) -> InputError:
    return InputError(f"{file} is damaged: {what}", remedy="Copy or download it again")
