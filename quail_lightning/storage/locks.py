"""Locks between processes: held by the kernel, so that a process that dies at any moment leaves none behind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quail_lightning.errors import InputError

LOCK = ".lock"
# of a file system that has none; NFS knows no exclusive lock of a folder
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)  # nor can anything be removed there
_held: dict[Path, tuple[int, bool]] = {}  # lock file → its descriptor, whether it is shared; of this process


def lock_in(folder: Path) -> Path:
    """The lock file of a folder that exists."""
    return folder / LOCK


def lock_beside(path: Path) -> Path:
    """The lock file of what may not exist yet, or is replaced as a whole."""
    return path.with_name(f".{path.name}{LOCK}")


def hold(lock: Path, what: str, *, shared: bool = False, wait: bool = False) -> None:
    """Keep other processes from ``lock`` until ``released_afterwards`` or the process ends.

    Holding it already is enough; a shared lock becomes an exclusive one where nobody else holds it.

    Args:
        lock: a lock file, whose folder exists; or a folder that is itself locked, which leaves no file in it.
        what: is in use, for the message.
        shared: several may hold it, none of them exclusively.
        wait: for the other to end, which is said, instead of refusing.

    Raises:
        InputError: another process holds it; names its number.
    """
    lock = lock.absolute()
    descriptor, was_shared = _held.get(lock, (None, True))
    if descriptor is not None and (shared or not was_shared):
        return
    if descriptor is None:
        try:
            descriptor = _open_locked(lock, what, shared, wait)
        except OSError as error:
            if error.errno in _NO_LOCKS or (shared and error.errno in _READ_ONLY):
                return
            raise
    else:
        _lock(descriptor, what, shared, wait)
    _held[lock] = descriptor, shared
    if not lock.is_dir():
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file; nothing is locked, and nothing made."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    finally:
        os.close(descriptor)
    return False


@contextmanager
def released_afterwards() -> Iterator[None]:
    """Let go, at the end, of the locks that were taken inside."""
    before = set(_held)
    try:
        yield
    finally:
        for lock in _held.keys() - before:
            release(lock)


def release(lock: Path) -> None:
    """Let go of a lock; the last one to do so removes its file."""
    descriptor, _ = _held.pop(lock.absolute())
    with suppress(OSError):  # others share it, it is a folder, or its folder is gone
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.unlink()
    os.close(descriptor)


def _open_locked(lock: Path, what: str, shared: bool, wait: bool) -> int:
    while True:
        flags = os.O_RDONLY if lock.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(lock, flags, 0o600)
        try:
            _lock(descriptor, what, shared, wait)
            if _is_same_file(descriptor, lock):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it removed it meanwhile


def _lock(descriptor: int, what: str, shared: bool, wait: bool) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        if not wait:
            raise InputError(
                f"{what} is in use by {holder}", remedy="Wait until it has ended, or end it"
            ) from None
        print(f"{what} is in use by {holder}: waiting for its end.", flush=True)
        fcntl.flock(descriptor, kind)


def _holder(descriptor: int) -> str:
    """Who holds a lock, as far as the file or the kernel tells."""
    status = os.fstat(descriptor)
    if not stat.S_ISDIR(status.st_mode):
        noted = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        return f"process {noted}" if noted.isdigit() else "another process"
    with suppress(OSError):  # 1: FLOCK  ADVISORY  READ 4321 08:01:131 0 EOF
        fields = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
        for _, _, _, _, process, file, *_ in fields:
            if file.endswith(f":{status.st_ino}") and int(process) not in (0, os.getpid()):
                return f"process {process}"
    return "another process"


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
