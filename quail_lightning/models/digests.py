"""Whether weight files are those that were saved, by their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.errors import InputError

DIGESTS = "weights_sha256"
"""Key of ``provenance.json``: name of a weight file → its digest."""


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
