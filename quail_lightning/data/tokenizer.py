"""Loading a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quail_lightning.data.tokenizer_refusals import refusal
from quail_lightning.errors import InputError
from quail_lightning.storage.adapter_bases import base_named, converted_base
from quail_lightning.storage.readable import check_json_objects, check_readable, read_json, refuse_pipes

OBJECTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "tekken.json",
)
TEXTS = ("merges.txt", "vocab.txt", "*.model", "*.tiktoken")


def load_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a checkpoint, from a folder or the hub; never by remote code.

    Of an adapter's folder that holds none it is the base's.

    Raises:
        InputError: none is there, it is damaged, needs a package or code of its own, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    if is_folder := (folder := Path(name_or_path)).is_dir():
        refuse_pipes(folder)
        check_json_objects(folder, OBJECTS)
        for path in (path for pattern in TEXTS for path in folder.glob(pattern)):
            check_readable(path)
        if base := _base_of_adapter(folder):
            return load_tokenizer(base)
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:
        # a damaged file makes the library raise anything, even a bare Exception; without a folder, only these are
        if not is_folder and not isinstance(error, (OSError, ValueError)):
            raise
        raise refusal(name_or_path, error) from error


def _base_of_adapter(folder: Path) -> str | None:
    """What an adapter without a tokenizer of its own changes, converted where it is a GGUF file; else None."""
    described = folder / "adapter_config.json"
    if not described.exists() or any((folder / name).exists() for name in OBJECTS):
        return None
    check_json_objects(folder, (described.name,))
    base = read_json(described).get("base_model_name_or_path")
    if not isinstance(base, str):
        return None
    return converted_base(folder, base_named(folder, base))


def named_tokenizer(name: str | None) -> Any:
    """The tokenizer that a DataModule was given by name.

    Raises:
        InputError: it was given none; or see ``load_tokenizer``.
    """
    if name is None:
        raise InputError("data.tokenizer is not set", remedy="Name the target's folder or hub name")
    return load_tokenizer(name)
