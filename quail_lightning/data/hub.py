"""Rows of a dataset on the Hugging Face hub."""

from __future__ import annotations

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
        InputError: the hub cannot be reached or has no such dataset, configuration or split.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split)
    except (ValueError, ConnectionError, FileNotFoundError) as error:
        part = split if config is None else f"{config}/{split}"
        raise InputError(
            f"corpus part {part!r} of {name!r} could not be loaded from the hub ({error})",
            remedy=f"Check name and network; or fetch this split of https://huggingface.co/datasets/{name} where "
            f"there is one, {local}",
        ) from error
    return [dict(row) for row in rows]
