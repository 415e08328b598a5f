"""What vouches for a checkpoint: the size and digest of each of its files, in a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when the same files come to mean something else


class DamagedError(Exception):
    """A checkpoint is not what was written; the message says which file and why."""


def write_manifest(folder: Path) -> None:
    """Vouch for the files that lie in a folder now."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content: dict[str, Any] = {"format": FORMAT, "files": files}
    content["sha256"] = _fingerprint(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def verify(folder: Path) -> None:
    """Read a checkpoint to its last byte.

    Raises:
        DamagedError: it is not what the manifest says, or there is none.
    """
    try:
        content: Any = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except ValueError:
        raise DamagedError(f"{MANIFEST} cannot be read") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedError(f"{MANIFEST} is not of format version {FORMAT}")
    if content.pop("sha256", None) != _fingerprint(content):
        raise DamagedError(f"{MANIFEST} was edited")
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise DamagedError(f"{name} has {size} bytes instead of {expected['bytes']}")
        if _digest(path) != expected["sha256"]:
            raise DamagedError(f"{name} is damaged (its digest is not the manifest's)")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
