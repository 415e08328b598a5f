"""A GGUF file becomes a checkpoint in Hugging Face format."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from quail_lightning.conversion.deployed import CONVERTED, OF_FILE, noted_in
from quail_lightning.conversion.described import converted_card, type_counts
from quail_lightning.conversion.gguf_header import GgufHeader
from quail_lightning.conversion.gguf_refusals import check_same_model
from quail_lightning.conversion.gguf_tokenizer import read_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import check_fits, read_provenance, save_model
from quail_lightning.models.config_sizes import check_sizes
from quail_lightning.models.empty import empty_model
from quail_lightning.models.loading_report import refuse_incomplete
from quail_lightning.models.memory import check_main_memory
from quail_lightning.models.saving import try_saving
from quail_lightning.storage.disk_room import bytes_in, refuse_too_little_room
from quail_lightning.storage.durable import remove
from quail_lightning.storage.gguf_files import converted_folder, digest_of
from quail_lightning.storage.locks import hold, lock_beside, released_afterwards
from quail_lightning.storage.readable import damaged
from quail_lightning.terminal import step, transient_bars

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

StoredDtype = Literal["float32", "bfloat16", "float16"]
FORM = 2  # of a conversion; one of another form is made anew where it lies by default, and refused elsewhere
PACKAGES = ("gguf", "transformers", "tokenizers", "torch", "quail-lightning")
SIXTEEN_BITS = {"F16": torch.float16, "BF16": torch.bfloat16}
LARGEST = 2.5
"""Copies of the largest tensor, in float32, that memory holds at most beside all weights: measured."""


def check_room(header: GgufHeader, folder: Path, dtype: StoredDtype | None = None) -> None:
    """See that disk and memory have room for the conversion, before anything is read.

    Weights are read as float32, and stored as ``convert_gguf`` says; that a 16-bit file's values do not all fit
    its type is found later, and the disk asked again.

    Args:
        header: of the file.
        folder: of the result.
        dtype: of the stored weights, see ``convert_gguf``.

    Raises:
        InputError: with both sizes.
    """
    sizes = [tensor.weights for tensor in header.tensors.values()]
    narrow = _narrow_dtype(header)
    stored = (narrow or torch.float32) if dtype is None else getattr(torch, dtype)
    _check_disk(sum(sizes) * stored.itemsize, folder)
    check_main_memory(4 * (sum(sizes) + LARGEST * max(sizes, default=0)), f"converting {header.file}")


def _check_disk(need: float, folder: Path) -> None:
    remedy = "Make room, or convert it to another disk: quail convert --out"
    refuse_too_little_room("the converted checkpoint", need, folder, remedy, bytes_in(folder))


def convert_gguf(header: GgufHeader, folder: Path, dtype: StoredDtype | None = None) -> bool:
    """Write the checkpoint, unless ``folder`` holds just this conversion already.

    Another process that converts it at the same time is waited for.

    Args:
        header: of a file that is convertible (``check_convertible``).
        folder: of the result.
        dtype: of the stored weights; None: 16 bits where each value of the file is one of 16 bits, else float32.

    Returns:
        whether it was converted; False where it was there.

    Raises:
        InputError: the folder holds something else; what transformers builds would leave something out; or values
            that the dtype cannot hold.
    """
    with released_afterwards():
        folder.parent.mkdir(parents=True, exist_ok=True)
        hold(lock_beside(folder), str(folder), wait=True)
        if is_converted(header.file, folder, dtype):
            return False
        check_room(header, folder, dtype)
        with step(f"converting {header.file}"), transient_bars():
            _convert(header, folder, dtype)
    return True


def is_converted(file: Path, folder: Path, dtype: StoredDtype | None = None) -> bool:
    """Whether a folder holds just this conversion of a file.

    Not so one that an earlier version made where conversions lie by default: that is made anew.

    Raises:
        InputError: it holds something else.
    """
    if not folder.exists():
        return False
    noted = read_provenance(folder) or {}
    made = {} if "quantized" in noted else noted.get(CONVERTED, {})  # a quantized copy notes what its model was
    wanted = {"sha256": digest_of(file), "form": FORM, "asked_dtype": dtype}
    differing = [key for key, value in wanted.items() if made.get(key) != value]
    if differing == ["form"] and folder == converted_folder(file):
        return False
    if differing:
        raise InputError(
            f"{folder} holds something else than this conversion of {file} "
            f"(they differ in {', '.join(differing)})",
            remedy="Name another folder, or remove this one to make it anew",
        )
    return True


def converted_from(name: str) -> dict[str, Any] | None:
    """The GGUF file that a checkpoint was converted from, its digest and types; None of any other checkpoint."""
    made = (read_provenance(Path(name)) or {}).get(CONVERTED)
    return None if made is None else {key: made[key] for key in ("file", "sha256", "types")}


def _convert(header: GgufHeader, folder: Path, dtype: StoredDtype | None) -> None:
    file = header.file
    config, empty = _described(header)
    check_same_model(header, config, empty)
    tokenizer = _tokenizer(header)
    check_fits(config, tokenizer, 1)
    try_saving(empty, tokenizer, folder, 0)
    model = _loaded(header, config, empty)
    stored = _exact_dtype(header, model) if dtype is None else getattr(torch, dtype)
    _check_disk(stored.itemsize * sum(value.numel() for value in model.parameters()), folder)
    rounded = _cast(model, stored, file)
    made = {
        "file": file.name,
        "sha256": digest_of(file),
        "form": FORM,
        "asked_dtype": dtype,
        "dtype": str(stored).removeprefix("torch."),
        "rounded": rounded,
        "architecture": header.architecture,
        "name": header.metadata.get("general.name"),
        "license": header.metadata.get("general.license"),
        "types": type_counts(header),
        "tensors": {name: tensor.type for name, tensor in header.tensors.items()},
        "versions": {name: version(name) for name in PACKAGES},
        OF_FILE: noted_in(header),
    }
    remove(folder)  # of another form
    try:
        save_model(model, tokenizer, folder, {"made_by": "quail convert", CONVERTED: made}, converted_card(made))
    except Exception:  # the disk is full, say: half a model must not fill it
        remove(folder.with_name(f".{folder.name}.partial"))
        raise


def _described(header: GgufHeader) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """The config that the library makes of a header, and the model of it on the meta device.

    Raises:
        InputError: no model has such sizes, or the library stumbles over a value.
    """
    from transformers import AutoConfig

    file = header.file
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        if (width := header.own("attention.key_length")) and "head_dim" in config.to_dict():
            config.head_dim = width  # the library takes its class's default for some architectures
        check_sizes(config, str(file))
        return config, empty_model(config, torch.float32)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # what values make the library raise is no matter of types
        said = " ".join(str(error).split())[:200]
        raise damaged(file, f"transformers makes no model of its keys ({type(error).__name__}: {said})") from error


def _tokenizer(header: GgufHeader) -> Any:
    try:
        return read_tokenizer(header)
    except Exception as error:  # of a merge without its token the library raises a bare Exception
        raise InputError(
            f"no tokenizer could be built from {header.file} ({' '.join(str(error).split())[:200]})",
            remedy="Copy or download it again",
        ) from error


def _loaded(header: GgufHeader, config: PreTrainedConfig, empty: PreTrainedModel) -> PreTrainedModel:
    """The model in float32, as one that was never quantized: the library saves no model that it read from GGUF.

    Raises:
        InputError: a weight is missing, or of another shape than the config says.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        header.file.parent,
        gguf_file=header.file.name,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below by name
    )
    weights, wanted = loaded[0].state_dict(), empty.state_dict()
    other = [
        (name, value.shape, wanted[name].shape)
        for name, value in weights.items()
        if value.shape != wanted[name].shape
    ]
    refuse_incomplete(
        str(header.file), loaded[1] | {"mismatched_keys": other}
    )  # of GGUF it reports no other shapes
    empty.load_state_dict(weights, assign=True)
    empty.tie_weights()
    empty.generation_config = loaded[0].generation_config
    return empty.eval()


def _exact_dtype(header: GgufHeader, model: PreTrainedModel) -> torch.dtype:
    """The file's 16-bit dtype where that holds every value of it, those that it stores wider too; else float32."""
    if (narrow := _narrow_dtype(header)) is None:
        return torch.float32
    exact = all(torch.equal(value.to(narrow).float(), value) for value in model.state_dict().values())
    return narrow if exact else torch.float32


def _narrow_dtype(header: GgufHeader) -> torch.dtype | None:
    """The 16-bit dtype of a file that has one beside float32 and nothing else."""
    kinds = {tensor.type for tensor in header.tensors.values()}
    narrow = [dtype for name, dtype in SIXTEEN_BITS.items() if name in kinds]
    return narrow[0] if len(narrow) == 1 and not kinds - {"F32", *SIXTEEN_BITS} else None


def _cast(model: PreTrainedModel, dtype: torch.dtype, file: Path) -> bool:
    """Cast all weights in place, never the buffers; whether any value changed.

    Raises:
        InputError: a value is not finite, in the file or in the dtype.
    """
    rounded = False
    for name, parameter in model.named_parameters():
        cast = parameter.detach().to(dtype)
        if not torch.isfinite(cast).all():
            sound = bool(torch.isfinite(parameter).all())
            raise InputError(
                f"{name} of {file} holds values that {dtype} cannot"
                if sound
                else f"{name} of {file} holds NaN or infinity",
                remedy="Take float32 or bfloat16" if sound else "Copy or download it again",
            )
        rounded = rounded or not torch.equal(cast.float(), parameter.detach())
        parameter.data = cast
    model.config.dtype = dtype
    return rounded
