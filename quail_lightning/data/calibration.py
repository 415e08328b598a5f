"""Calibration tokens: what quantizers that look at activations are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.text_files import read_documents
from quail_lightning.data.tokens import token_ids
from quail_lightning.data.window_records import spread
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import without_padding

GENERAL_TEXTS = ("alice.txt", "constitution.txt", "declaration.txt")
"""Shipped public-domain texts; ``general_text/PROVENANCE.md`` says where they come from."""


@dataclass(frozen=True)
class CalibrationRequest:
    """Which text calibrates AWQ, GPTQ and SmoothQuant, and how much of it.

    What a quantizer is calibrated on decides which weights it protects, so the forget set is never used unless
    it is asked for by name: a deliberate study (the failure paper's point about the calibration domain).

    Attributes:
        source: ``general``: a public-domain text that comes with the package, or ``text``; ``retain``: the
            retain set's windows; ``forget``: the forget set's.
        windows: how many.
        length: tokens a window; a model with fewer positions gets windows of its positions.
        text: a file of your own in place of the shipped text (see ``read_documents``); with ``general`` only.
    """

    source: Literal["general", "retain", "forget"] = "general"
    windows: int = 64
    length: int = 512
    text: str | None = None

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise InputError("calibration.windows must be at least 1", given=self.windows)
        if self.length < 2:
            raise InputError("calibration.length must be at least 2 tokens", given=self.length)
        if self.text is not None and self.source != "general":
            raise InputError(
                "calibration.text is the general text; drop it, or set source: general", given=self.text
            )
        if self.text is not None and not Path(self.text).is_file():
            raise InputError("calibration.text names no file", given=self.text)

    def describe(self) -> str:
        """One line for results and model cards."""
        origin = {"general": self.text or "public-domain text of the package"}.get(
            self.source, f"{self.source} set"
        )
        return f"{self.windows} windows of at most {self.length} tokens, {self.source}: {origin}"


def calibration_tokens(
    request: CalibrationRequest,
    tokenizer: Any,
    positions: int | None = None,
    sets: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The token windows that a request names, evenly spread over the text.

    Args:
        request: which text and how much.
        tokenizer: the model's; each window cut from text opens as ``opening_tokens`` says.
        positions: the model's positions; None where it has no limit.
        sets: ``retain`` and ``forget`` → [n, time] token windows; needed for those sources only.

    Returns:
        [windows, length] int64.

    Raises:
        InputError: the text is too short, is not UTF-8, or the set is not at hand.
    """
    length = request.length if positions is None else min(request.length, positions)
    if request.source == "general":
        rows = _cut(_general_text(request), tokenizer, length)
    elif sets is None or request.source not in sets:
        raise InputError(
            f"calibration.source {request.source!r} needs a corpus",
            remedy="Give a data section, or use source: general",
        )
    else:
        windows = sets[request.source]
        length = min(length, windows.shape[1])
        whole = windows.shape[1] // length * length
        rows = _unpadded(windows, length) if (windows < 0).any() else windows[:, :whole].reshape(-1, length)
    if len(rows) < request.windows:
        raise InputError(
            f"calibration text too short ({request.source}): it holds {len(rows)} windows of {length} tokens",
            given=f"windows: {request.windows}",
            remedy="Set calibration.windows lower or calibration.length shorter, or give a longer text",
        )
    return spread(rows, request.windows)


def general_windows(tokenizer: Any, length: int) -> Tensor:
    """All of the shipped public-domain text in windows, [n, length] int64.

    Args:
        tokenizer: a transformers tokenizer.
        length: tokens a window, its opening included.
    """
    return _cut(_general_text(CalibrationRequest()), tokenizer, length)


def _general_text(request: CalibrationRequest) -> str:
    if request.text is None:
        folder = files("quail_lightning.data") / "general_text"
        raw = "\n\n".join((folder / name).read_text("utf-8") for name in GENERAL_TEXTS)
    else:
        raw = "\n\n".join(read_documents(request.text))
    paragraphs = (re.sub(r"\s+", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", raw))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _unpadded(windows: Tensor, length: int) -> Tensor:
    """[n, length]: question–answer pairs put end to end, without their padding."""
    tokens = torch.cat([without_padding(window) for window in windows])
    return tokens[: len(tokens) // length * length].view(-1, length)


def _cut(text: str, tokenizer: Any, length: int) -> Tensor:
    """[n, length]: whole windows only, so that no text is shown twice."""
    opening = opening_tokens(tokenizer)
    tokens = token_ids(text, tokenizer)
    run = length - len(opening)
    count = len(tokens) // run
    openings = torch.tensor(opening, dtype=torch.int64).expand(count, len(opening))
    return torch.cat([openings, tokens[: count * run].view(count, run)], dim=1)
