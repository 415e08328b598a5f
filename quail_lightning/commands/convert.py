"""`quail convert`: a checkpoint in Hugging Face format of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from quail_lightning.conversion.deployed import CONVERTED
from quail_lightning.conversion.described import described_grid
from quail_lightning.conversion.gguf_conversion import StoredDtype, convert_gguf
from quail_lightning.conversion.gguf_header import read_header
from quail_lightning.conversion.gguf_refusals import check_convertible
from quail_lightning.errors import InputError, check_choice
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.storage.durable import check_writable
from quail_lightning.storage.gguf_files import converted_folder, gguf_file


def convert(model: str | Path, out: str | Path | None = None, dtype: StoredDtype | None = None) -> Path:
    """Make a checkpoint in Hugging Face format of a GGUF file, unless it is there already.

    Args:
        model: the file, a folder with one, or ``smollm2``.
        out: folder of the result; None: where it would lie if the file were named as a checkpoint. A folder that
            holds this conversion already is kept.
        dtype: of the stored weights. None: float32, which holds what any quantized type says exactly; of a file
            whose values are all of 16 bits, these.

    Returns:
        The folder. Its ``provenance.json`` says under ``converted`` of which file, and each tensor's type there.

    Raises:
        InputError: no GGUF file, damaged, or one of which no causal language model can be made; or ``out`` holds
            something else.
    """
    check_choice("dtype", dtype, (*get_args(StoredDtype), None))
    if out is None and dtype is not None:
        raise InputError(
            "a conversion of a dtype of its own needs a folder of its own",
            given=f"dtype: {dtype}",
            remedy="Name out",
        )
    if out is not None:
        check_writable(Path(out), "out")
    if (file := gguf_file(str(model))) is None:
        raise InputError(
            "that is no GGUF file",
            given=str(model),
            allowed="a file that ends in .gguf, a folder with one and without a config.json, or smollm2",
        )
    header = read_header(file)
    check_convertible(header)
    folder = converted_folder(file) if out is None else Path(out)
    convert_gguf(header, folder, dtype)
    return folder


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("model", type=str, help="a GGUF file, a folder with one, or smollm2")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder of the result; default: checkpoints/converted/<name>"
    )
    parser.add_argument(
        "--dtype",
        type=StoredDtype | None,
        default=None,
        help="of the stored weights; default: one that holds every value of the file exactly",
    )


def run(arguments: Any) -> None:
    """Carry the verb out."""
    folder = convert(arguments.model, arguments.out, arguments.dtype)
    made = (read_provenance(folder) or {})[CONVERTED]
    kept = "rounded to" if made["rounded"] else "exactly, in"
    print(f"converted: {folder} ({kept} {made['dtype']})")
    if grid := described_grid(made["types"]):
        print(grid)
