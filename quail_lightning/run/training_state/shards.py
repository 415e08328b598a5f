"""FSDP2's checkpoints: every process writes its shards, and what describes them is JSON, not a pickle."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint._nested_dict import set_element  # private: the planner's own
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo  # private: what torch's metadata consists of
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from quail_lightning.errors import InputError
from quail_lightning.run.training_state.choosing import SHARDS, check_not_pickled, is_pickled
from quail_lightning.run.training_state.tensors_and_json import SafetensorsIO


def write_without_pickles(strategy: ModelParallelStrategy) -> None:
    """Let FSDP2's strategy write and read checkpoints without pickles of objects.

    Raises:
        InputError: it is to write the whole model into one file.
    """
    if not strategy._save_distributed_checkpoint:  # private: a constructor argument without a public name
        raise InputError(
            "training checkpoints of sharded models are written in shards",
            given="save_distributed_checkpoint: false",
            remedy="Leave it out of trainer.strategy.init_args",
        )
    # the strategy is the user's own object, and Lightning asks it by these two names
    setattr(strategy, "save_checkpoint", partial(_save, strategy))  # noqa: B010
    setattr(strategy, "load_checkpoint", partial(_load, strategy))  # noqa: B010


def _save(
    strategy: ModelParallelStrategy, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
) -> None:
    folder = Path(strategy.broadcast(filepath))
    folder.mkdir(parents=True, exist_ok=True)
    states = {"state_dict": checkpoint.pop("state_dict")}
    states |= {f"optimizer_{number}": state for number, state in enumerate(checkpoint.pop("optimizer_states", []))}
    dcp.save(states, storage_writer=JsonWriter(folder))
    if strategy.is_global_zero:
        SafetensorsIO().save_checkpoint(checkpoint, folder)


def _load(strategy: ModelParallelStrategy, path: Any, weights_only: bool | None = None) -> dict[str, Any]:
    folder = Path(strategy.broadcast(path))
    check_not_pickled(folder)
    if is_pickled(folder):
        return ModelParallelStrategy.load_checkpoint(strategy, folder, weights_only)
    module = strategy.model
    assert module is not None
    assert strategy.lightning_module is not None
    weights = {"state_dict": get_model_state_dict(module)}
    read_shards(weights, folder)
    module.load_state_dict(weights["state_dict"], strict=strategy.lightning_module.strict_loading)
    for number, optimizer in enumerate(strategy.optimizers):
        state = {f"optimizer_{number}": get_optimizer_state_dict(module, optimizer)}
        read_shards(state, folder)
        (loaded,) = state.values()
        options = StateDictOptions(cpu_offload=True)
        set_optimizer_state_dict(module, optimizer, optim_state_dict=loaded, options=options)
    return SafetensorsIO().load_checkpoint(folder)


def read_shards(state: dict[str, Any], folder: Path) -> None:
    """Fill a (nested) dictionary of tensors and plain values from a folder of shards, in place.

    Raises:
        InputError: the shards are not such a dictionary's, or hold something else than tensors and plain values.
    """
    try:
        dcp.load(state, storage_reader=JsonReader(folder), planner=PlainValues())
    except CheckpointException as error:
        rank, (problem, _) = next(iter(error.failures.items()))
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        raise InputError(f"process {rank} cannot read the shards of {folder} ({said[0]})") from error


class JsonWriter(FileSystemWriter):
    """Torch's own writer, whose description of the shards is ``shards.json``."""

    def finish(self, metadata: Metadata, results: Any) -> None:
        """Called by the first process, once all have written."""
        stored = {written.index: written.storage_data for part in results for written in part}
        described = {
            "values": {name: _described(value) for name, value in metadata.state_dict_metadata.items()},
            "stored": [_stored(index, place) for index, place in stored.items()],
        }
        with (Path(self.path) / SHARDS).open("w", encoding="utf-8") as file:
            json.dump(described, file)
            os.fsync(file.fileno())


class JsonReader(FileSystemReader):
    """Reads what ``JsonWriter`` wrote."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The description of the shards."""
        described = json.loads((Path(self.path) / SHARDS).read_bytes())
        places = {}
        for name, offset, number, file, start, length in described["stored"]:
            if Path(file).name != file:
                raise InputError("a shard lies beside its description", given=file)
            places[MetadataIndex(name, offset, number)] = _StorageInfo(file, start, length)
        values: Any = {name: _value(value) for name, value in described["values"].items()}
        return Metadata(values, storage_data=places, storage_meta=StorageMeta(load_id=self.load_id))


class PlainValues(DefaultLoadPlanner):
    """Torch's own planner, which unpickles nothing but tensors and plain values."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Called for what is no tensor, such as the learning rate."""
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


def _described(value: Any) -> dict[str, Any] | None:
    """A tensor's type, size and chunks ([offsets, sizes] of each); None for what is no tensor."""
    if isinstance(value, BytesStorageMetadata):
        return None
    chunks = [[list(chunk.offsets), list(chunk.sizes)] for chunk in value.chunks]
    return {
        "dtype": str(value.properties.dtype).removeprefix("torch."),
        "size": list(value.size),
        "chunks": chunks,
    }


def _value(described: Mapping[str, Any] | None) -> BytesStorageMetadata | TensorStorageMetadata:
    if described is None:
        return BytesStorageMetadata()
    chunks = [ChunkStorageMetadata(torch.Size(start), torch.Size(size)) for start, size in described["chunks"]]
    properties = TensorProperties(dtype=getattr(torch, described["dtype"]))
    return TensorStorageMetadata(properties, torch.Size(described["size"]), chunks)


def _stored(index: MetadataIndex, place: _StorageInfo) -> list[Any]:
    """Where a chunk lies: name, offsets, number, file, first byte, bytes."""
    offset = None if index.offset is None else list(index.offset)
    return [index.fqn, offset, index.index, place.relative_path, place.offset, place.length]
