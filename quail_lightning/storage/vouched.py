"""JSON that holds a digest of itself: what was edited or damaged is noticed, and never believed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.storage.durable import replace_text

DIGEST = "sha256"


def write_vouched(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object with its digest; its owner alone may read it.

    Args:
        path: of the file, whose folder exists.
        content: fit for JSON, without ``sha256``.
    """
    told = dict(content) | {DIGEST: digest(content)}
    replace_text(path, json.dumps(told, allow_nan=False) + "\n", private=True)


class DamagedError(Exception):
    """A file is not what was written; the message says why."""


def load_vouched(path: Path) -> dict[str, Any]:
    """What ``write_vouched`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is another file.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError):
        raise DamagedError(f"{path.name} cannot be read") from None
    if not isinstance(content, dict) or DIGEST not in content:
        raise DamagedError(f"{path.name} has no digest")
    if content.pop(DIGEST) != digest(content):
        raise DamagedError(f"{path.name} was edited")
    return content


def read_vouched(path: Path, consequence: str) -> dict[str, Any] | None:
    """What ``write_vouched`` wrote; None where there is no such file, or where it is another, which is said.

    Args:
        path: of the file.
        consequence: of a damage, for the line that says so.
    """
    try:
        return load_vouched(path)
    except FileNotFoundError:
        return None
    except DamagedError as damage:
        print(f"{path.parent}: {damage}; {consequence}", file=sys.stderr, flush=True)
        return None


def digest(content: Any) -> str:
    """SHA-256 of a value by its JSON, or by its ``repr`` where it is no JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()
