"""SHA-256 of weight files, and whether they are the files that were saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.terminal import step

DIGESTS = "weights_sha256"
"""Key of ``provenance.json``: name of a weight file → its digest."""

_known: dict[tuple[str, int, int, int], str] = {}


def file_digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Name below the folder → SHA-256. An unchanged file is read once in a process."""
    return {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(files)}


def refuse_changed(folder: Path, digests: Mapping[str, str], provenance: Mapping[str, Any]) -> None:
    """Refuse weights that are not those that were saved: one flipped bit of them is seen by nothing else.

    Args:
        folder: of the checkpoint.
        digests: of its weight files.
        provenance: what was noted beside them.

    Raises:
        InputError: naming the files.
    """
    saved = provenance.get(DIGESTS)
    if not isinstance(saved, dict):
        return  # saved by another program, or before digests were noted
    changed = [name for name, digest in digests.items() if saved.get(name) != digest]
    if changed := changed or sorted(saved.keys() - digests.keys()):
        raise InputError(
            f"{', '.join(changed)} in {folder} is not what was saved there: its SHA-256 differs from the one in "
            "provenance.json",
            remedy="Copy it again. Weights that you replaced on purpose are no longer this model: remove "
            "provenance.json, which says how it was made",
        )


def _digest(path: Path) -> str:
    found = path.stat()
    key = (str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file, step(f"reading {path} for its digest"):
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]
