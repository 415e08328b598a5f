"""Rows of a dataset on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError


def hub_rows(name: str, config: str | None, split: str, local: str) -> list[dict[str, Any]]:
    """The rows of one split; what is in the local cache is used offline.

    Args:
        name: of the dataset, ``owner/name``.
        config: its configuration; None where it has only one.
        split: of the configuration.
        local: what a local copy must hold and which option names it, for who has no network.

    Raises:
        InputError: the hub cannot be reached, has no such dataset, configuration or split, or gives it only to
            accounts that were granted access.
    """
    return list(each_hub_row(name, config, split, local))


def each_hub_row(name: str, config: str | None, split: str, local: str) -> Iterator[dict[str, Any]]:
    """As ``hub_rows``, one row at a time: of a large dataset the first ones cost little memory.

    Raises:
        InputError: as ``hub_rows``, at the call.
    """
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = load_dataset(name, config, split=split)
    except (ValueError, ConnectionError, FileNotFoundError, HfHubHTTPError) as error:
        part = split if config is None else f"{config}/{split}"
        where = f"https://huggingface.co/datasets/{name}"
        remedy = f"Check name and network; or fetch this split of {where} where there is one, {local}"
        if _is_gated(error):
            remedy = (
                f"Ask for access at {where}, then log in (`hf auth login`, or the variable HF_TOKEN); or fetch it "
                f"where you have access, {local}"
            )
        raise InputError(
            f"corpus part {part!r} of {name!r} could not be loaded from the hub ({error})", remedy=remedy
        ) from error
    return (dict(row) for row in rows)


def folder_named(name: str) -> Path | None:
    """The folder that a corpus' name means, whether or not it exists; None: it is of the form ``owner/name``."""
    folder = Path(name).expanduser()
    is_hub_name = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return None if is_hub_name and not folder.is_dir() else folder


def _is_gated(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that access must be granted first."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            return True
        error = error.__cause__
    return False
