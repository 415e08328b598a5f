"""Files and folders that are there whole or not at all, also after a crash of the machine."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def replace_text(path: Path, content: str) -> None:
    """Write a file's new content under another name, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, "utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON by ``replace_text``; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its final name, after all of it has reached the disk.

    Args:
        partial: the folder, complete, under another name beside the final one.
        folder: the final name, which no file or folder has yet.
    """
    for path in sorted(partial.rglob("*")):
        sync(path)
    sync(partial)
    partial.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed for want of room; safetensors tells so only in its message."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
