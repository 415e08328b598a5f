"""Files of a folder that somebody copied: refused by name where they are not what they are called."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_readable(path: Path) -> None:
    """See that a file can be read; it is not read, so that a pipe does not block.

    Raises:
        InputError: it is missing, no regular file, empty, or a pointer of Git LFS.
    """
    try:
        found = path.stat()
    except OSError as error:
        where = "points to nothing" if path.is_symlink() else "cannot be read"
        raise InputError(f"{path} {where} ({error.strerror})", remedy="Copy or download it again") from error
    if not stat.S_ISREG(found.st_mode):
        raise _no_file(path, "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device")
    if not found.st_size:
        raise damaged(path, "it is empty")
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if start == LFS_POINTER:
        raise InputError(
            f"{path} is the pointer that Git LFS leaves in place of a large file, not the file",
            remedy="Fetch it by `git lfs pull` in the folder it was cloned to",
        )


def refuse_pipes(folder: Path) -> None:
    """See that nothing in a folder, which the library reads by names of its own, lets a reader wait for ever.

    Raises:
        InputError: naming the first pipe, socket or device.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _no_file(path, "a pipe, socket or device")


def _no_file(path: Path, kind: str) -> InputError:
    return InputError(f"{path} is no regular file but {kind}", remedy="Put the file itself there")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: see ``check_readable``; or it is not JSON in UTF-8.
    """
    check_readable(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON ({str(error).splitlines()[0]})") from error


def check_json_objects(folder: Path, names: tuple[str, ...]) -> None:
    """See that those of the files that are there hold a JSON object each.

    Raises:
        InputError: naming the first that does not.
    """
    for path in (folder / name for name in names):
        if (path.exists() or path.is_symlink()) and not isinstance(read_json(path), dict):
            raise damaged(path, "it holds no JSON object")


def damaged(path: Path, what: str) -> InputError:
    """The error of a file that is not whole."""
    return InputError(f"{path} is damaged: {what}", remedy="Copy or download it again")
