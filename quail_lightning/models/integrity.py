"""A checkpoint is whole, or refused by name, before any of its weights is read.

What the library would make of the stored tensors is asked of the library itself: it loads their names and shapes on
the meta device, by the same renaming and merging as real weights, and its own report says what is missing, left over
or of another shape. Whether the values are numbers is seen when they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.models.empty import empty_model
from quail_lightning.models.memory import check_main_memory
from quail_lightning.models.weight_files import DTYPES, WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ADAPTER = "adapter_config.json"
SHOWN = 3  # tensors named in a message

WRAPPERS = {
    "_orig_mod.": "torch.compile puts it there: save model._orig_mod, or rename the tensors",
    "_fsdp_wrapped_module.": "FSDP1 puts it there: gather the full state dict before saving, or rename the tensors",
    "_checkpoint_wrapped_module.": "activation checkpointing puts it there: rename the tensors",
    "module.": "DDP and DeepSpeed put it there: save model.module, or rename the tensors",
}
"""What wrappers put into names → the remedy."""


def check_checkpoint(folder: Path, config: PreTrainedConfig, dtype: torch.dtype, copies: float = 1.0) -> None:
    """See that a folder holds the whole model that its config describes, from the headers of its files.

    A quantized checkpoint stores other tensors than its architecture has; of one only the files are looked at, and
    the library's report when it is loaded decides.

    Args:
        folder: in Hugging Face format.
        config: its config.
        dtype: that its weights are to be loaded in.
        copies: how many whole models this process will hold; FSDP2 takes its share of one.

    Raises:
        InputError: an adapter; files that are missing or damaged; tensors that are missing, left over or of another
            shape; weights stored as whole numbers; or more than the machine's memory.
    """
    refuse_adapter(folder)
    if name := getattr(config, "transformers_weights", None):
        raise InputError(
            f"the config of {folder} names its weight file itself (transformers_weights: {name})",
            remedy="Save it anew by save_pretrained, as model.safetensors",
        )
    files = WeightFiles(str(folder))
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(files.stored):
        # never built: a config may say a billion
        raise _not_whole(folder, f"its config says {layers:,} layers, and its files hold {len(files.stored)} tensors")
    if getattr(config, "quantization_config", None) is not None:
        return
    model = _built(folder, config, dtype)
    parameters = dict(model.named_parameters())
    _refuse_whole_numbers(files, parameters, model.base_model_prefix)
    refuse_incomplete(str(folder), _report(files, model), files.stored, model.base_model_prefix)
    _refuse_doubled_prefix(files, parameters, model.base_model_prefix)
    count = sum(parameter.numel() for parameter in parameters.values())
    check_main_memory(count * dtype.itemsize * copies, f"the model {str(folder)!r} in {dtype}")


def refuse_adapter(folder: Path) -> None:
    """Refuse a LoRA adapter, alone or beside full weights.

    Raises:
        InputError: with the remedy.
    """
    if not (folder / ADAPTER).exists():
        return
    merge = (
        "Merge it: AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new_folder), "
        "of the package peft, and copy the tokenizer there"
    )
    if any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise InputError(
            f"{folder} holds full weights and an adapter ({ADAPTER}): which of the two is meant is not known",
            remedy=f"Take the adapter's files away where the full weights are meant. {merge}",
        )
    raise InputError(
        f"{folder} is an adapter (LoRA or alike: {ADAPTER}), which holds only a change of another model's weights",
        remedy=merge,
    )


def refuse_incomplete(
    name: str, report: Mapping[str, Collection[Any]], stored: Iterable[str] = (), base: str = ""
) -> None:
    """Refuse a checkpoint that does not fill its model, by the library's loading report.

    Args:
        name: of the checkpoint.
        report: of ``from_pretrained``: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
        stored: names in the files, before any renaming.
        base: prefix of the architecture's body (``model``, ``transformer``).

    Raises:
        InputError: naming the first few tensors, and the remedy where a prefix explains them.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted((key, tuple(found), tuple(wanted)) for key, found, wanted in report["mismatched_keys"])
    parts = []
    if missing:
        parts.append(f"{_some(missing)} missing")
    if unexpected:
        parts.append(f"{_some(unexpected)} in the files but not in the architecture")
    if mismatched:
        shapes = [f"{key} (file {list(found)}, config {list(wanted)})" for key, found, wanted in mismatched]
        parts.append(f"of another shape than its config says: {_some(shapes)}")
    if parts:
        raise _not_whole(name, "; ".join(parts), _remedy([*unexpected, *stored], missing, base))


def refuse_non_finite(name: str, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Refuse NaN and infinity among loaded weights; one pass over them, without a copy.

    Args:
        name: of the checkpoint.
        model: loaded; quantized weights, which are whole numbers, are passed by.
        dtype: that it was loaded in.

    Raises:
        InputError: naming file and tensor.
    """
    broken = [key for key, parameter in model.named_parameters() if is_broken(parameter)]
    if broken:
        raise non_finite(name, broken, dtype)


def is_broken(values: torch.Tensor) -> bool:
    """Whether a weight holds NaN or infinity; False for dtypes of one byte, which torch compares none of."""
    return values.is_floating_point() and values.dtype.itemsize > 1 and not is_finite(values.detach())


def non_finite(name: str, broken: list[str], dtype: torch.dtype) -> InputError:
    """The error of weights that hold NaN or infinity; their files are read again to name the stored tensor."""
    with WeightFiles(name) as files:
        for key, stored in files.stored.items():
            count = torch.Size(stored.shape).numel()
            if stored.dtype in DTYPES and is_broken(files.read(key, 0, count)):
                return InputError(
                    f"{key} in {stored.file} holds NaN or infinity",
                    remedy="The training that made this model diverged, or the file is damaged: take another checkpoint",
                )
    return InputError(
        f"{_some(broken)} in {name!r}: values too large for {dtype}", remedy="Use bf16, which has float32's range"
    )


def _built(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        return empty_model(config, dtype)
    except Exception as error:  # whatever a config makes an architecture's constructor raise
        raise InputError(
            f"the config of {str(folder)!r} describes no causal language model that can be built "
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
        _, report = type(model).from_pretrained(
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
        gaps = _gaps(files.stored)
        what = f"{_some(gaps)} missing" if gaps else "tensors that are merged when loaded do not fit each other"
        raise _not_whole(files.name, what) from error
    return report


def _refuse_whole_numbers(files: WeightFiles, parameters: Collection[str], base: str) -> None:
    for key, stored in files.stored.items():
        if stored.dtype not in DTYPES and {key, f"{base}.{key}", key.removeprefix(f"{base}.")} & set(parameters):
            raise InputError(
                f"{key} in {stored.file} is stored as {stored.dtype}, and the config says of no quantization",
                allowed=", ".join(DTYPES),
                remedy="Name the checkpoint before quantization, or copy its config.json, which says how to read it",
            )


def _refuse_doubled_prefix(files: WeightFiles, parameters: Collection[str], base: str) -> None:
    """The library reads such names, and nothing else here does: an analysis, a sharded model, other programs."""
    doubled = f"{base}.{base}."
    found = [key for key in files.stored if key.startswith(doubled)]
    if base and found and not any(key.startswith(doubled) for key in parameters):
        remedy = f"Names have the additional prefix '{base}.' ({found[0]}); rename the tensors"
        raise _not_whole(files.name, f"{_some(found)} in the files but not in the architecture", remedy)


def _remedy(found: list[str], missing: list[str], base: str) -> str | None:
    """What explains the names, where a prefix does."""
    for wrapper, remedy in WRAPPERS.items():
        if (other := [key for key in found if f".{wrapper}" in f".{key}"]) and not any(wrapper in m for m in missing):
            return f"Names hold the prefix {wrapper!r} ({other[0]}); {remedy}"
    for key in found:
        outer, _, inner = key.partition(".")
        if inner in missing:
            return f"Names have the additional prefix '{outer}.' ({key}); rename the tensors"
        if base and f"{base}.{key}" in missing:
            return f"Names lack the prefix '{base}.' ({key}); rename the tensors"
    return None


def _gaps(names: Iterable[str]) -> list[str]:
    """Names that are missing from a full grid: layer 1's expert 2 where its layer 0 has one."""
    grids: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        grids.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), set()).add(tuple(re.findall(r"(?<=\.)\d+(?=\.)", name)))
    found = []
    for pattern, numbers in grids.items():
        # the last number runs over what its layer's other tensors have
        stem, star, _ = pattern.rpartition("*")
        depth = pattern.count("*")
        beside = [of for key, of in grids.items() if star and key.startswith(stem) and key.count("*") == depth]
        for place in sorted(set().union(*beside) - numbers if beside else ()):
            filled = iter(place)
            found.append(re.sub(r"\*", lambda _, filled=filled: next(filled), pattern))
    return found


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _not_whole(name: object, what: str, remedy: str | None = None) -> InputError:
    default = "Copy or download it again, its config.json too; or save it anew by save_pretrained"
    return InputError(f"the checkpoint {str(name)!r} is not whole: {what}", remedy=remedy or default)
