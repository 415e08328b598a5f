"""A precision that is a file of another program: where it goes, and that it is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.errors import InputError, RunError
from quail_lightning.models.checkpoint import PROVENANCE
from quail_lightning.models.digests import DIGESTS
from quail_lightning.models.saving import MARGIN
from quail_lightning.quantization import Quantizer
from quail_lightning.quantization.protocol import WritesFile
from quail_lightning.run.masking import masked
from quail_lightning.storage.disk_room import refuse_too_little_room
from quail_lightning.storage.durable import partial_name, publish, remove, write_failure
from quail_lightning.storage.file_digests import file_digests
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth")


def refuse_other_suffix(quantizer: Quantizer, to: str, out: Path) -> None:
    """Refuse the name of a file where a folder is written, or of a file of another kind.

    Raises:
        InputError: naming what is written.
    """
    own = quantizer.suffix if isinstance(quantizer, WritesFile) else None
    if out.suffix.lower() in SUFFIXES and out.suffix != own:
        raise InputError(
            f"{to} is not written to a {out.suffix} file",
            given=str(out),
            allowed="a folder" if own is None else f"a folder, or a name that ends in {own}",
            remedy="For GGUF take --to q4_k_m, q4_0 or q8_0" if own is None else None,
        )


def check_file(quantizer: WritesFile, model: PreTrainedModel, tokenizer: Any, out: Path) -> str:
    """Refuse what cannot be written, before a weight is loaded.

    Args:
        quantizer: whose file is written.
        model: may be on the meta device.
        tokenizer: of transformers.
        out: of the file or of a folder for it.

    Returns:
        a sentence about what the program does otherwise; empty where there is nothing.

    Raises:
        InputError: the program cannot run it, or too little room.
    """
    said = quantizer.check_file(model, tokenizer)
    need = quantizer.file_bytes(model) + MARGIN
    refuse_too_little_room("the file", need, out, "Make room, or write to another disk")
    return said


def save_file(
    quantizer: WritesFile, model: PreTrainedModel, tokenizer: Any, out: Path, notes: Mapping[str, Any], card: str
) -> None:
    """Write the file, or a folder with it, the model card and ``provenance.json``.

    Args:
        quantizer: whose file is written.
        model: whole, in the dtype that is quantized.
        tokenizer: of transformers.
        out: ends in the quantizer's suffix, or names the folder; nothing has that name.
        notes: the provenance, which stands in the file too.
        card: Markdown.

    Raises:
        InputError: weights that cannot be quantized.
        RunError: the disk is full or cannot be written to.
    """
    partial = partial_name(out)
    of_source = {DIGESTS}  # of the checkpoint's files, which are not these
    noted = masked({name: value for name, value in notes.items() if name not in of_source})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with step(f"quantizing and saving {out}"):
            if out.suffix == quantizer.suffix:
                quantizer.write_file(model, tokenizer, partial, noted)
            else:
                partial.mkdir()
                file = partial / f"model{quantizer.suffix}"
                quantizer.write_file(model, tokenizer, file, noted)
                (partial / "README.md").write_text(card, "utf-8")
                described = noted | {DIGESTS: file_digests(partial, [file])}
                (partial / PROVENANCE).write_text(json.dumps(described, indent=2, default=str) + "\n", "utf-8")
            publish(partial, out)
    except OSError as error:
        if (failure := write_failure(error)) is None:
            raise
        raise RunError(f"{out} could not be written ({failure[0]})", remedy=failure[1]) from error
    finally:
        remove(partial)
