"""GGUF files that this program wrote: models that are deployed already, and what they note of their making."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.conversion.gguf_header import GgufHeader
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import read_provenance
from quail_lightning.storage.gguf_files import PROVENANCE
from quail_lightning.storage.readable import damaged

CONVERTED = "converted"
"""Key of ``provenance.json``: what was converted, and how."""
OF_FILE = "provenance"
"""Key below ``CONVERTED``: what the file itself noted; None of other programs' files."""


def noted_in(header: GgufHeader) -> dict[str, Any] | None:
    """What a file notes of how it was made; None of a file that another program wrote.

    Raises:
        InputError: it is no JSON object, or does not say by which precision it was quantized.
    """
    if (text := header.metadata.get(PROVENANCE)) is None:
        return None
    try:
        noted = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict):
        raise damaged(header.file, f"its {PROVENANCE} holds no JSON object")
    made = noted.get("quantized")
    if not isinstance(made, dict) or not isinstance(made.get("precision"), str):
        raise damaged(header.file, f"its {PROVENANCE} does not say by which precision it was quantized")
    return noted


def described_deployed(noted: Mapping[str, Any]) -> str:
    """One sentence on what a file is that this program wrote (``noted_in``)."""
    made = noted["quantized"]
    return f"It holds {made['precision']} of {made.get('of')}: what is evaluated is the deployed format itself."


def refuse_deployed(header: GgufHeader) -> None:
    """Refuse to quantize what this program quantized, before it is converted.

    Files of other programs pass: where such a file is the base, its weights are all there is.

    Raises:
        InputError: naming precision and origin.
    """
    if (noted := noted_in(header)) is not None:
        made = noted["quantized"]
        raise InputError(
            "the model is quantized already",
            given=f"{header.file}, which is {made['precision']} of {made.get('of')}",
            remedy="Name the 16-bit checkpoint",
        )


def noted_of_file(name: str) -> Mapping[str, Any] | None:
    """What a checkpoint's GGUF file notes (``noted_in``); None of a checkpoint that is no conversion of such."""
    provenance = read_provenance(Path(name)) or {}
    if "quantized" in provenance:  # a copy in another format, which notes what its model was
        return None
    found: Mapping[str, Any] | None = provenance.get(CONVERTED, {}).get(OF_FILE)
    return found
