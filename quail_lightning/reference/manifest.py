"""What vouches for a cache on disk: its origin's fingerprint, and every file's size and digest.

The manifest is written last, so a build that was killed leaves none. Two runs that build the same cache at the
same time replace each other's files by equal ones, and the last to finish vouches for what then lies there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from quail_lightning.errors import InputError
from quail_lightning.reference.store import write_whole

FORMAT = 2  # raise it when the same names come to mean something else
MANIFEST = "manifest.json"


class UnusableError(Exception):
    """What lies on disk is not the cache that is wanted; the message says which file and why."""


class Manifest(NamedTuple):
    """What a cache consists of.

    Attributes:
        windows_per_shard: windows in each file of a set but its last.
        files: name → ``bytes``, ``sha256``, and ``arrays`` (name → dtype and shape).
    """

    windows_per_shard: int
    files: dict[str, dict[str, Any]]


def fingerprint(origin: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of what a cache is made of."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, origin: Mapping[str, Any]) -> Manifest | None:
    """The manifest of the cache made of ``origin``; None where none was ever begun.

    Raises:
        UnusableError: it is missing, damaged, or another cache's.
        InputError: another account's.
    """
    try:
        found: Any = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        if not folder.is_dir():
            return None
        raise UnusableError(f"{MANIFEST} is missing (it was never finished)") from None
    except PermissionError:
        raise InputError(
            f"the reference cache {folder} is private to the account that built it",
            remedy="Name a folder of your own by model.reference.init_args.folder",
        ) from None
    except (OSError, ValueError):
        raise UnusableError(f"{MANIFEST} cannot be read") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UnusableError(f"{MANIFEST} is not of format version {FORMAT}")
    if found.pop("sha256", None) != fingerprint(found):
        raise UnusableError(f"{MANIFEST} was edited")
    if found["fingerprint"] != fingerprint(origin):
        raise UnusableError(f"{MANIFEST} is that of another cache ({found['fingerprint'][:16]})")
    return Manifest(found["windows_per_shard"], found["files"])


def write_manifest(folder: Path, origin: Mapping[str, Any], manifest: Manifest) -> None:
    """Declare a cache complete."""
    content = {"format": FORMAT, "fingerprint": fingerprint(origin), "origin": dict(origin), **manifest._asdict()}
    content["sha256"] = fingerprint(content)
    write_whole(folder / MANIFEST, lambda path: path.write_text(json.dumps(content, indent=1) + "\n", "utf-8"))


def describe(path: Path) -> dict[str, Any]:
    """What the manifest says about a file."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        arrays = {name: [part.get_dtype(), part.get_shape()] for name, part in sorted(slices.items())}
    return {"bytes": path.stat().st_size, "sha256": _digest(path), "arrays": arrays}


def verify(path: Path, expected: Mapping[str, Any]) -> None:
    """Compare a file with what the manifest says about it, to the last byte.

    Raises:
        UnusableError: they differ.
    """
    if not path.is_file():
        raise UnusableError(f"{path.name} is missing")
    if (size := path.stat().st_size) != expected["bytes"]:
        raise UnusableError(f"{path.name} has {size} bytes instead of {expected['bytes']}")
    if _digest(path) != expected["sha256"]:
        raise UnusableError(f"{path.name} is damaged (its digest is not the manifest's)")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
