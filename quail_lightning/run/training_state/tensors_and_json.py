"""Lightning's checkpoint dictionary as safetensors and JSON: nothing that is read back can run code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from safetensors.torch import load_file, save_file
from torch import Tensor

TREE = "state.json"
BYTES_PER_FILE = 2**31  # what is held in main memory at once while tensors leave an accelerator


class SafetensorsIO(CheckpointIO):
    """Writes a checkpoint into a folder: ``state.json`` and ``tensors-00000.safetensors``, ….

    A value is a tensor, a dictionary, a list or tuple, a string, a number, a truth value or None; a tensor that
    stands in several places (tied weights) is written once. Everything else is refused.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write all of ``checkpoint`` to the folder ``path``, which may exist.

        Raises:
            TypeError: a value of another kind, named by its place.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        tree = _encoded(checkpoint, tensors, "checkpoint")
        part: dict[str, Tensor] = {}
        number = held = 0
        for name, tensor in tensors.items():
            # a copy: safetensors refuses tensors that share memory, and views keep all of their storage alive
            part[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            held += tensor.nbytes
            if held >= BYTES_PER_FILE:
                save_file(part, folder / _file(number))
                part, number, held = {}, number + 1, 0
        if part:
            save_file(part, folder / _file(number))
        (folder / TREE).write_text(json.dumps(tree, allow_nan=False) + "\n", "utf-8")

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What ``save_checkpoint`` wrote, on the CPU."""
        folder = Path(path)
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("tensors-*.safetensors")):
            tensors |= load_file(file)
        decoded: dict[str, Any] = _decoded(json.loads((folder / TREE).read_bytes()), tensors)
        return decoded

    def remove_checkpoint(self, path: Any) -> None:
        """Never called: the training checkpoint removes its own folders."""
        raise NotImplementedError


def _file(number: int) -> str:
    return f"tensors-{number:05d}.safetensors"


def _encoded(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """``value`` as JSON; its tensors go to ``tensors``, by name."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        return {"tensor": _named(value, tensors)}
    if isinstance(value, Mapping):  # a list of pairs: the optimizer's keys are numbers
        return {"dict": [[key, _encoded(item, tensors, f"{place}[{key!r}]")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encoded(item, tensors, f"{place}[{number}]") for number, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise TypeError(f"{place} is a {type(value).__qualname__}, which a checkpoint cannot hold")


def _named(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """The tensor's name; the same for the same memory."""
    for name, other in tensors.items() if tensor.numel() else ():
        if _memory(other) == _memory(tensor):
            return name
    tensors[name := f"{len(tensors):06d}"] = tensor
    return name


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decoded(item, tensors) for key, item in content}
    assert kind == "tuple", kind
    return tuple(_decoded(item, tensors) for item in content)
