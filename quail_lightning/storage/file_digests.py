"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from quail_lightning.terminal import step

_known: dict[tuple[str, int, int, int], str] = {}


def file_digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Name below the folder → SHA-256. An unchanged file is read once in a process."""
    return {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    found = path.stat()
    key = (str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file, step(f"reading {path} for its digest"):
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]
