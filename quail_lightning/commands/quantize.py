"""`quail quantize`: write a model in the format it is deployed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from quail_lightning.commands.model_card import model_card
from quail_lightning.commands.quantized_file import check_file, refuse_other_suffix, save_file
from quail_lightning.commands.sixteen_bit import located_sixteen_bit
from quail_lightning.configuration.files import find_config
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.protocol import TextData
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError, check_choice
from quail_lightning.inference.encoding import positions
from quail_lightning.models.checkpoint import (
    check_whole,
    evaluated_dtype,
    load_config,
    load_model,
    read_provenance,
    weights_digest,
)
from quail_lightning.models.empty import empty_model, stored_generation_config
from quail_lightning.models.rescue import save_or_rescue
from quail_lightning.models.saving import try_saving, weight_bytes
from quail_lightning.quantization import (
    Quantizer,
    check_quantizers,
    described_share,
    load_quantizer,
    remarks,
)
from quail_lightning.quantization.body_weights import body_weights
from quail_lightning.quantization.protocol import WritesFile
from quail_lightning.storage.durable import check_new
from quail_lightning.terminal import step

Dtype = Literal["bfloat16", "float16", "float32"]
Device = Literal["auto", "cpu", "cuda"]


def quantize(
    model: str | Path,
    to: str,
    out: str | Path,
    calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008 (frozen)
    data: TextData | None = None,
    dtype: Dtype | None = None,
    device: Device = "auto",
) -> Path:
    """Write the copy that is evaluated at this precision, as a checkpoint that ``from_pretrained`` loads.

    GGUF's precisions are written as a file that llama.cpp runs.

    Args:
        model: folder or hub name of a checkpoint that is not quantized.
        to: name of the precision.
        out: folder of the result, or for GGUF's precisions a name that ends in ``.gguf``; its parents are made. A
            folder holds such a file as ``model.gguf``.
        calibration: for the precisions that are calibrated.
        data: corpus of the calibration from the retain or forget set.
        dtype: to which the weights are cast before they are quantized; None: as the run that made them evaluated
            them (its ``export_dtype``), bfloat16 for the models of others.
        device: where to quantize; ``auto`` takes a GPU where there is one.

    Returns:
        The folder. Its ``provenance.json`` is the model's, and says under ``quantized`` how it was made, of which
        weights, which share of the body's is quantized, and whether the grid is simulated. A GGUF file holds the
        same under the key ``quail.provenance``.

    Raises:
        InputError: ``out`` exists or is named like a file of another format, no such precision, a package is
            missing, the model is quantized already, or it cannot be quantized or calibrated this way.
        RunError: the disk filled meanwhile; says where the copy lies instead.
    """
    out = Path(out)
    _quantize(str(model), to, out, calibration, data, dtype, device)
    return out


def _quantize(
    model: str,
    to: str,
    out: Path,
    calibration: CalibrationRequest,
    data: TextData | None,
    dtype: Dtype | None,
    device: Device,
) -> tuple[dict[str, Any], list[str]]:
    """Write it; how it was made, and what is to be said about it."""
    check_choice("dtype", dtype, (*get_args(Dtype), None))
    check_choice("device", device, get_args(Device))
    check_new(out, "out")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here", given="device: cuda", allowed="auto or cpu")
    quantizer = load_quantizer(to)
    refuse_other_suffix(quantizer, to, out)
    (model,) = located_sixteen_bit([model])
    config = load_config(model)
    held: torch.dtype = (evaluated_dtype(model) or torch.bfloat16) if dtype is None else getattr(torch, dtype)
    share = check_quantizers(config, {to: quantizer}, held)[to]
    check_whole(model, held)
    tokenizer = load_tokenizer(model)
    empty = empty_model(config, held)
    empty.generation_config = stored_generation_config(model, empty)
    said = [remarks(config, {to: quantizer}, held)]
    if isinstance(quantizer, WritesFile):
        said.append(check_file(quantizer, empty, tokenizer, out))
    else:
        try_saving(empty, tokenizer, out, _stored_bytes(empty, quantizer, share))
    tokens = None
    if quantizer.needs_calibration:
        sets = None if data is None or calibration.source == "general" else _windows(data, tokenizer)
        with step("cutting the calibration's windows"):
            tokens = calibration_tokens(calibration, tokenizer, positions(config), sets)
    place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    original = load_model(model, held)
    torch.nn.Module.to(original, place)
    calibrated = calibration if quantizer.needs_calibration else None
    made: dict[str, Any] = {
        "precision": to,
        "of": model,
        "of_sha256": weights_digest(model),
        "dtype": str(held).removeprefix("torch."),
        "quantizer": find_config(f"quantizer/{to}.yaml").read_text("utf-8"),
        "calibration": None if calibrated is None else asdict(calibrated),
        "simulated": quantizer.simulated,
        "backend": quantizer.backend,
        "share": share,
    }
    provenance = read_provenance(Path(model)) or {}
    if isinstance(quantizer, WritesFile):
        made |= {"simulated": False, "tensors": quantizer.file_tensors(empty)}  # the copy alone is dequantized
        card = model_card(model, provenance, made, calibrated)
        save_file(quantizer, original, tokenizer, out, provenance | {"quantized": made}, card)
        return made, said
    # saved before any forward pass, at which packed weights are unpacked (and bitsandbytes' reordered on CPUs)
    with step(f"quantizing {model} to {to}"):
        quantized = quantizer.quantize(original, tokens)
    card = model_card(model, provenance, made, calibrated)
    save_or_rescue(quantized, tokenizer, out, provenance | {"quantized": made}, card)
    return made, said


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("model", type=str, help="folder or hub name of a checkpoint that is not quantized")
    parser.add_argument("--to", type=str, required=True, help="precision: a name below configs/quantizer")
    parser.add_argument(
        "--out", type=str, required=True, help="folder of the result, or model.gguf; it must not exist"
    )
    parser.add_argument(
        "--calibration",
        type=CalibrationRequest,
        default=CalibrationRequest(),
        help="text for AWQ, GPTQ and SmoothQuant",
    )
    parser.add_subclass_arguments(LightningDataModule, "data", required=False)
    parser.add_argument("--dtype", type=Dtype | None, help="the weights are cast to it first")
    parser.add_argument("--device", type=Device, default="auto", help="where to quantize")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    out = Path(arguments.out)
    made, said = _quantize(
        arguments.model,
        arguments.to,
        out,
        arguments.calibration,
        arguments.get("data"),
        arguments.dtype,
        arguments.device,
    )
    print(f"saved: {out} ({made['precision']}, {_gib(out)}, {described_share(made['share'])} quantized)")
    if made["simulated"]:
        print(
            f"{made['precision']} is simulated: the weights are rounded to its grid and stored in "
            f"{made['dtype']}, at full size; no deployment format has this grid"
        )
    for sentence in filter(None, said):
        print(sentence)


def _stored_bytes(model: Any, quantizer: Quantizer, share: float) -> float:
    """What the quantized copy's weights take on the disk, without scales; ``share`` of the body is quantized."""
    whole = weight_bytes(model, model.dtype)
    if quantizer.simulated:
        return whole
    body = sum(each.parameter.numel() for each in body_weights(model))
    return whole - share * body * (model.dtype.itemsize - quantizer.stored_bits / 8)


def _windows(data: TextData, tokenizer: Any) -> Mapping[str, Tensor]:
    data.check(with_records=False)
    return data.cut_windows(tokenizer)._asdict()


def _gib(out: Path) -> str:
    files = [out] if out.is_file() else [*out.glob("*.safetensors"), *out.glob("*.gguf")]
    size = sum(path.stat().st_size for path in files)
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
