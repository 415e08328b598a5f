"""Loading a tokenizer."""

from __future__ import annotations

from typing import Any

from quail_lightning.errors import InputError


def load_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a checkpoint, from a folder or the hub; never by remote code.

    Raises:
        InputError: none is there, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {name_or_path!r} ({str(error).splitlines()[0]})",
            allowed="a folder with tokenizer.json, or a name on the hub",
        ) from error


def named_tokenizer(name: str | None) -> Any:
    """The tokenizer that a DataModule was given by name.

    Raises:
        InputError: it was given none; or see ``load_tokenizer``.
    """
    if name is None:
        raise InputError("data.tokenizer is not set", remedy="Name the target's folder or hub name")
    return load_tokenizer(name)
