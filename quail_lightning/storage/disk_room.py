"""How much room a disk has, and sizes for a reader."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from quail_lightning.errors import InputError


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def free_room(folder: Path) -> int:
    """Free bytes on the disk where a folder is, or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def refuse_too_little_room(what: str, need: float, folder: Path, remedy: str, replaced: int = 0) -> None:
    """See that a disk has room before anything is computed that is to lie there.

    Args:
        what: needs it.
        need: bytes.
        folder: where it will lie.
        remedy: what to do about it.
        replaced: bytes that are freed for it.

    Raises:
        InputError: with both sizes.
    """
    free = free_room(folder)
    if need > free + replaced:
        raise InputError(
            f"{what} needs {size_text(round(need))} and the disk of {folder} has {size_text(free)} free",
            remedy=remedy,
        )


def size_text(count: int) -> str:
    """Bytes for a reader: '48.8 GiB', '3.2 MiB'."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def bytes_in(folder: Path) -> int:
    """Bytes of the files below a folder; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another run just renamed it
            total += path.stat().st_size if path.is_file() else 0
    return total
