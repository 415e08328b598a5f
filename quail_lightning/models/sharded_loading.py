"""Load a checkpoint so that no process ever holds more of it than its share."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.sharded import own_rows, shard, share

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load_sharded(
    name_or_path: str, dtype: torch.dtype, mesh: DeviceMesh, compute: torch.dtype | None
) -> PreTrainedModel:
    """A causal language model in ``dtype``, spread over ``mesh``, in evaluation mode.

    It is laid out without memory, sharded, and filled weight by weight from its safetensors files, of which each
    process reads its own rows.

    Args:
        name_or_path: a folder in Hugging Face format, or a name on the hub.
        dtype: of the weights.
        mesh: one-dimensional, of all processes.
        compute: see ``shard``.

    Raises:
        InputError: no such checkpoint, no safetensors in it, or a weight stored under another name.
    """
    model = empty_model(load_config(name_or_path), dtype)
    shard(model, mesh, compute)
    on_cuda = mesh.device_type == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    model.to_empty(device=device)
    restore_buffers(model, device)
    files = _weight_files(_folder(name_or_path))
    for name, parameter in model.named_parameters():
        stored = _stored_name(name, files, model, name_or_path)
        _fill(parameter, files[stored], stored)
    return model.eval()


def cast_shards(
    model: PreTrainedModel, dtype: torch.dtype, moved: Callable[[str, Tensor], Tensor] | None = None
) -> PreTrainedModel:
    """A sharded copy of a sharded model in another dtype, in evaluation mode and without gradients.

    Each process casts its own share: nothing is gathered, and no process holds more of the copy than that.

    Args:
        model: unchanged.
        dtype: of the copy's weights.
        moved: a weight's name and the weight → what the copy is to hold, before it is cast, laid out as the weight
            is; None: the weight itself.
    """
    parameters = dict(model.named_parameters())
    first = next(iter(parameters.values()))
    assert isinstance(first, DTensor)
    copied = empty_model(copy.deepcopy(model.config), dtype)
    shard(copied, first.device_mesh, None)
    copied.to_empty(device=first.device)
    restore_buffers(copied, first.device)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            values = parameters[name].detach()
            share(parameter).copy_(share(values if moved is None else moved(name, values)))
    copied.generation_config = copy.deepcopy(model.generation_config)
    copied.config.dtype = dtype
    return copied.requires_grad_(False).eval()


def empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The architecture of a checkpoint on the meta device.

    Raises:
        InputError: the config is of no causal language model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise InputError(f"no causal language model: {str(error).splitlines()[0]}") from error
    return model


def restore_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute what is no weight and stands in no file: the rotary frequencies, as loading makes them.

    Raises:
        InputError: the architecture keeps other buffers, which only its own loading fills.
    """
    for name, module in model.named_modules():
        own = dict(module.named_buffers(recurse=False))
        if not own:
            continue
        if any(True for _ in module.parameters(recurse=False)) or "RotaryEmbedding" not in type(module).__name__:
            raise InputError(
                f"{type(model).__name__} keeps buffers in {name} that are not made without loading it whole",
                remedy="Train it on one device, or under DDP (configs/trainer/ddp.yaml)",
            )
        with torch.device("cpu"):
            made: dict[str, Tensor] = dict(type(module)(module.config).named_buffers(recurse=False))
        for buffer in own:
            module._buffers[buffer] = made[buffer].to(device)


def _fill(parameter: Tensor, file: Path, name: str) -> None:
    """Copy this process's rows of a stored weight into it."""
    from safetensors import safe_open

    rows = own_rows(parameter)
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        if rows.stop > rows.start:
            share(parameter).copy_(stored.get_slice(name)[rows])


def _stored_name(name: str, files: dict[str, Path], model: PreTrainedModel, checkpoint: str) -> str:
    prefix = model.base_model_prefix + "."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if candidate in files:
            return candidate
    raise InputError(
        f"the checkpoint {checkpoint!r} stores no {name}, and a sharded model is filled weight by weight",
        remedy="Save it anew by save_pretrained of the transformers installed here",
    )


def _weight_files(folder: Path) -> dict[str, Path]:
    """Weight → the file it lies in."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        placed: dict[str, Any] = json.loads(index.read_text("utf-8"))["weight_map"]
        return {name: folder / file for name, file in placed.items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise InputError(f"there are no safetensors weights in {folder}", allowed=f"{single.name}, {index.name}")
    with safe_open(single, framework="pt") as stored:
        return dict.fromkeys(stored.keys(), single)


def _folder(name_or_path: str) -> Path:
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name_or_path, allow_patterns=["*.safetensors", "*.json"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"no weights could be fetched for {name_or_path!r} ({str(error).splitlines()[0]})"
        ) from error
