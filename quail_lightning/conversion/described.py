"""What a converted checkpoint's reader must know: of which types the file's weights were, so where they lie."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from quail_lightning.conversion.deployed import OF_FILE, described_deployed
from quail_lightning.conversion.gguf_header import GgufHeader

BITS = re.compile(r"^(?:I?Q|TQ|MXFP|NVFP)(\d)")  # of a code, in ggml's name of a quantized type


def type_counts(header: GgufHeader) -> dict[str, dict[str, int]]:
    """Type → how many tensors are of it, how many weights, and how many of them share a block."""
    from gguf import GGMLQuantizationType
    from gguf.constants import GGML_QUANT_SIZES

    found: dict[str, dict[str, int]] = {}
    for tensor in header.tensors.values():
        block = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type]][0]
        entry = found.setdefault(tensor.type, {"tensors": 0, "weights": 0, "block": block})
        entry["tensors"] += 1
        entry["weights"] += tensor.weights
    return found


def described_grid(types: Mapping[str, Mapping[str, int]]) -> str:
    """One sentence on the grid that quantized weights lie on; empty where none are quantized.

    Args:
        types: of ``type_counts``, or as the provenance has them.
    """
    total = sum(each["weights"] for each in types.values())
    parts = [
        f"{each['weights'] / total:.0%} on {name}'s ({match[1]} bits, blocks of {each['block']})"
        for name, each in sorted(types.items(), key=lambda item: -item[1]["weights"])
        if (match := BITS.match(name))
    ]
    if not parts:
        return ""
    return (
        f"The weights lie on the file's grids: {', '.join(parts)}. They were rounded once already: what a format "
        "of about as many bits does to them need not be what it does to a model that was never quantized."
    )


def converted_card(made: Mapping[str, Any]) -> str:
    """The README.md beside the weights.

    Args:
        made: what the provenance has under ``converted``.
    """
    license_ = f"license: {json.dumps(_one_line(made['license']))}\n" if made.get("license") else ""
    kept = (
        f"Stored as {made['dtype']}, each value rounded to the nearest one."
        if made["rounded"]
        else f"Stored as {made['dtype']}, which holds every value of the file exactly."
    )
    table = "\n".join(
        f"| {name} | {each['tensors']} | {each['weights']:,} |" for name, each in made["types"].items()
    )
    parts = [
        f"---\nlibrary_name: transformers\n{license_}---",
        f"# {_one_line(made.get('name') or made['file'])}",
        f"Converted from the GGUF file `{made['file']}` (SHA-256 `{made['sha256']}`), architecture "
        f"`{made['architecture']}`. {kept}",
        f"| type | tensors | weights |\n|---|---|---|\n{table}",
        described_grid(made["types"]) if made[OF_FILE] is None else described_deployed(made[OF_FILE]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _one_line(text: object) -> str:
    """What a file says, which may be anything, so that it opens no line of its own in the card."""
    return " ".join(str(text).split())
