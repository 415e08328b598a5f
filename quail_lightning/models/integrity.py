"""A checkpoint is whole, or refused by name, before any of its weights is read.

What the library would make of the stored tensors is asked of the library itself: it loads names and shapes alone,
on the meta device, renames and merges them as it does real weights, and its own report says what is missing, left
over or of another shape. Whether the values are numbers is seen when they are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quail_lightning.errors import InputError
from quail_lightning.models.empty import empty_model
from quail_lightning.models.loading_report import gaps, not_whole, refuse_incomplete, some
from quail_lightning.models.memory import check_main_memory
from quail_lightning.models.weight_files import DTYPES, INDEX, SINGLE, WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PACKED = ".weight_packed"  # of the compressed-tensors format


def check_checkpoint(folder: Path, config: PreTrainedConfig, dtype: torch.dtype, share: float = 1.0) -> None:
    """See that a folder holds the whole model that its config describes, from the headers of its files.

    A quantized checkpoint stores other tensors than its architecture has; of one only files and shapes are
    looked at, and the library's report when it is loaded decides.

    Args:
        folder: in Hugging Face format.
        config: its config.
        dtype: that its weights are to be loaded in.
        share: of the weights that this process is to hold.

    Raises:
        InputError: files missing or damaged; tensors missing, left over, of another shape or stored as
            whole numbers; or more than the machine's memory.
    """
    if name := getattr(config, "transformers_weights", None):
        raise InputError(
            f"the config of {folder} names a weight file of its own (transformers_weights: {name})",
            allowed=f"{SINGLE}, or {INDEX} and what it names",
            remedy="Save it anew by save_pretrained",
        )
    files = WeightFiles(str(folder))
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(files.stored):  # a config may say a billion, which is never built
        raise not_whole(
            files.name, f"its config says {layers:,} layers, its files hold {len(files.stored)} tensors"
        )
    model = _built(files.name, config, dtype)
    parameters = dict(model.named_parameters())
    if getattr(config, "quantization_config", None) is not None:
        _refuse_doubled_prefix(files, parameters, model.base_model_prefix)
        refuse_other_shapes(files, parameters)
        return
    what = f"the model {files.name!r} in {dtype}"
    # the library computes buffers even where it loads no weight
    check_main_memory(sum(buffer.nbytes for buffer in model.buffers()), what)
    _refuse_whole_numbers(files, parameters, model.base_model_prefix)
    refuse_incomplete(files.name, _report(files, model), files.stored, model.base_model_prefix)
    _refuse_doubled_prefix(files, parameters, model.base_model_prefix)
    count = sum(parameter.numel() for parameter in parameters.values())
    check_main_memory(count * dtype.itemsize * share, what)


def _built(name: str, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        return empty_model(config, dtype)
    except Exception as error:  # whatever a config's values make an architecture's constructor raise
        raise InputError(
            f"the config of {name!r} describes no causal language model that can be built "
            f"({' '.join(str(error).split())[:300]})",
            remedy="Copy or download config.json again",
        ) from error


def _report(files: WeightFiles, model: PreTrainedModel) -> Mapping[str, Collection[Any]]:
    """The library's loading report, of names and shapes alone.

    Raises:
        InputError: tensors that are merged while loading (a mixture's experts) are not all there.
    """
    shapes = {key: torch.empty(shape, dtype=model.dtype, device="meta") for key, shape in files.shapes.items()}
    try:
        loaded: Any = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=shapes,
            dtype=model.dtype,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, not raised
        )
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        lacking = gaps(files.stored)
        what = (
            f"{some(lacking)} missing" if lacking else "tensors that are merged while loading do not fit together"
        )
        raise not_whole(files.name, what) from error
    report: Mapping[str, Collection[Any]] = loaded[1]
    return report


def refuse_other_shapes(files: WeightFiles, parameters: Mapping[str, torch.Tensor]) -> None:
    """Refuse a quantized checkpoint whose config says other sizes, before the library makes room for them.

    Args:
        files: of the checkpoint.
        parameters: of its architecture, not quantized.

    Raises:
        InputError: naming the first few tensors.
    """
    other = []
    for key, stored in files.stored.items():
        wanted = parameters.get(key.replace(PACKED, ".weight"))
        if wanted is None:
            continue
        if key.endswith(PACKED):  # [outputs, inputs / values in an integer]
            same = stored.shape[0] == wanted.shape[0]
        elif stored.dtype == "U8":  # two values in a byte, in one column
            same = 2 * math.prod(stored.shape) == wanted.numel()
        else:
            same = stored.shape == wanted.shape
        if not same:
            other.append((key, stored.shape, wanted.shape))
    refuse_incomplete(files.name, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": other})


def _refuse_whole_numbers(files: WeightFiles, parameters: Collection[str], base: str) -> None:
    for key, stored in files.stored.items():
        if stored.dtype in DTYPES or not {key, f"{base}.{key}", key.removeprefix(f"{base}.")} & set(parameters):
            continue
        raise InputError(
            f"{key} in {stored.file} is stored as {stored.dtype}, and the config says nothing of a quantization",
            allowed=", ".join(DTYPES),
            remedy="Name the checkpoint before quantization, or give it back its own config.json",
        )


def _refuse_doubled_prefix(files: WeightFiles, parameters: Collection[str], base: str) -> None:
    """The library reads such names, and nothing else does: an analysis, a sharded model, other programs."""
    doubled = f"{base}.{base}."
    found = [key for key in files.stored if key.startswith(doubled)]
    if base and found and not any(key.startswith(doubled) for key in parameters):
        remedy = f"Names have the additional prefix '{base}.' ({found[0]}); rename the tensors"
        raise not_whole(files.name, f"{some(found)} in the files but not in the architecture", remedy)
