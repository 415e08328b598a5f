"""Files and folders that are there whole or not at all, also after a crash of the machine."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.storage.privacy import open_private


def replace_text(path: Path, content: str, private: bool = False) -> None:
    """Write a file's new content under a name of its own, then rename it.

    Args:
        path: of the file; its folder exists.
        content: all of it.
        private: the owner alone may read it; otherwise whoever the umask lets.
    """
    partial = partial_name(path)
    try:
        with open(open_private(partial) if private else partial, "w", encoding="utf-8") as file:
            file.write(content)
        sync(partial)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a write that fails does not know where
            error.filename = error.filename or str(path)
        raise
    sync(path.parent)


def write_json(path: Path, content: Any, private: bool = False) -> None:
    """Write JSON by ``replace_text``; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", private)


def partial_name(path: Path) -> Path:
    """A name beside ``path`` that no other process takes, for what is not finished."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its final name, after all of it has reached the disk.

    Args:
        partial: the folder, complete, under another name beside the final one.
        folder: the final name, which no file or folder has yet.
    """
    _sync_below(partial)
    partial.rename(folder)
    sync(folder.parent)


def publish_or_keep(partial: Path, folder: Path, is_good: Callable[[Path], bool]) -> None:
    """As ``publish``, where something may have the name: what is good stays, what is not makes way.

    Args:
        partial: the folder, complete, under another name beside the final one.
        folder: the final name.
        is_good: whether what has the name is whole; another process may have finished it meanwhile.
    """
    _sync_below(partial)
    while True:
        try:
            partial.rename(folder)
        except OSError:
            if not os.path.lexists(folder):
                raise
            if is_good(folder):
                remove(partial)
                return
            in_the_way = partial_name(folder)
            with suppress(FileNotFoundError):  # another process found it first
                folder.rename(in_the_way)
                remove(in_the_way)
        else:
            sync(folder.parent)
            return


def remove(path: Path) -> None:
    """Remove a folder with all below it, a file, or a link and not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_below(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed for want of room."""
    return _number(error) in _FULL


def check_writable(folder: Path, what: str) -> None:
    """See that a folder can be written to, or made, before anything is computed that is to lie there.

    Args:
        folder: exists or not.
        what: the option that names it.

    Raises:
        InputError: it lies at or below a file, on a read-only disk, or its owner lets nobody write.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        where = "names" if existing == folder else "lies below"
        raise InputError(f"{what} {where} a file", given=str(existing), allowed="a folder, made if need be")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{what} cannot be written to", given=str(folder), remedy="Name a folder that can")


def check_new(path: Path, what: str) -> None:
    """See that something can be written where there is nothing yet (``check_writable``).

    Args:
        path: of a folder or a file.
        what: the option that names it.

    Raises:
        InputError: it exists, or cannot be made.
    """
    if path.exists():
        raise InputError(f"{what} {path} exists already", remedy="Name another folder, or remove it first")
    check_writable(path, what)


def check_new_file(path: Path, what: str, endings: Sequence[str]) -> None:
    """See that a file can be written where there is none yet, before anything is computed that is to stand in it.

    Args:
        path: of the file.
        what: the option that names it.
        endings: of its name, in small letters.

    Raises:
        InputError: it has another ending, something has that name, or its folder cannot be written to.
    """
    if path.suffix.lower() not in endings:
        raise InputError(f"{what} has another ending", given=str(path), allowed=", ".join(endings))
    if os.path.lexists(path):
        raise InputError(
            f"{what} names a {'folder' if path.is_dir() else 'file'} that exists already",
            given=str(path),
            remedy="Name a new file, or remove this one: nothing is overwritten",
        )
    if not path.parent.is_dir():
        raise InputError(f"the folder of {what} does not exist", given=str(path.parent), remedy="Make it first")
    check_writable(path.parent, f"the folder of {what}")


def write_failure(error: BaseException) -> tuple[str, str] | None:
    """What is to be said where writing (or reading) failed for want of room or of rights, and the remedy.

    None for any other error.
    """
    number = _number(error)
    if number not in _FULL | _REFUSED:
        return None
    where = getattr(error, "filename", None)
    fact = f"{where}: {os.strerror(number)}" if where else os.strerror(number)
    return fact, "Make room on that disk" if number in _FULL else "Take a folder that you may read and write"


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def _number(error: BaseException) -> int:
    """Of an error of the operating system; safetensors tells it only in its message."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0
