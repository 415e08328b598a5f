"""Load a checkpoint so that no process ever holds more of it than its share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from quail_lightning.errors import InputError
from quail_lightning.models.adapters import refuse_spread
from quail_lightning.models.checkpoint import check_whole, load_config
from quail_lightning.models.empty import empty_model, stored_generation_config
from quail_lightning.models.non_finite import is_broken, non_finite
from quail_lightning.models.sharded import own_rows, shard, share
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.run.processes import current_processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        InputError: no such checkpoint, no safetensors in it, a weight stored under another name; it is not whole
            (``check_whole``); or NaN or infinity in the rows of any process.
    """
    refuse_spread(name_or_path)
    config, files = load_config(name_or_path), WeightFiles(name_or_path)
    check_whole(str(files.folder), dtype, share=1 / mesh.size())
    model = empty_model(config, dtype)
    shard(model, mesh, compute)
    on_cuda = mesh.device_type == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    model.to_empty(device=device)
    restore_buffers(model, device)
    broken = []
    for name, parameter in model.named_parameters():
        stored = _stored_name(name, files, model)
        _fill(parameter, files.stored[stored].file, stored)
        if is_broken(share(parameter)):
            broken.append(name)
    # every process refuses what any of them found in its own rows
    if found := sorted({name for part in current_processes().gather(broken) for name in part}):
        raise non_finite(name_or_path, found, dtype)
    model.generation_config = stored_generation_config(name_or_path, model)
    return model.eval()


def cast_shards(
    model: PreTrainedModel, dtype: torch.dtype, moved: Callable[[str, Tensor], Tensor] | None = None
) -> PreTrainedModel:
    """A sharded copy of a sharded model in another dtype, in evaluation mode and without gradients.

    Each process casts its own share: nothing is gathered, and no process holds more of the copy than that.

    Args:
        model: unchanged.
        dtype: of the copy's weights.
        moved: a weight's name and the weight → what the copy is to hold, laid out as the weight is; None: the
            weight itself.
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
            # private: register_buffer would forget whether it is persistent
            module._buffers[buffer] = made[buffer].to(device)


def _fill(parameter: Tensor, file: Path, name: str) -> None:
    """Copy this process's rows of a stored weight into it."""
    from safetensors import safe_open

    rows = own_rows(parameter)
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        if rows.stop > rows.start:
            share(parameter).copy_(stored.get_slice(name)[rows])


def _stored_name(name: str, files: WeightFiles, model: PreTrainedModel) -> str:
    prefix = model.base_model_prefix + "."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if candidate in files.stored:
            return candidate
    raise InputError(
        f"the checkpoint {files.name!r} stores no {name}, and a sharded model is filled weight by weight",
        remedy="Save it anew by save_pretrained of the transformers installed here",
    )
