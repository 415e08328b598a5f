"""The files of one part of a dataset in a folder, in one of the layouts in which it may lie there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quail_lightning.errors import InputError


def part_files(folder: Path, part: str, patterns: Sequence[str]) -> list[Path]:
    """What the first pattern that any file fits finds, in the order of names: one file, or the shards of a clone.

    Args:
        folder: an existing one.
        part: as an error calls it.
        patterns: of paths below the folder, such as ``forget.jsonl`` and ``data/forget-*.parquet``.

    Raises:
        InputError: no file fits; with the patterns and with what the folder holds.
    """
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    raise InputError(
        f"{part} is missing: {folder} holds none of {', '.join(patterns)}",
        allowed=", ".join(sorted(path.name for path in folder.iterdir())) or "nothing, the folder is empty",
        remedy="Put the file there, or name another part or folder",
    )
