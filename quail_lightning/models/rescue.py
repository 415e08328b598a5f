"""What cost hours is not lost because its folder cannot be written to any more."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.errors import RunError
from quail_lightning.models.checkpoint import save_model
from quail_lightning.storage.durable import partial_name, write_failure
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_or_rescue(
    model: PreTrainedModel, tokenizer: Any, folder: Path, provenance: Mapping[str, Any], card: str | None = None
) -> None:
    """``save_model``; where the disk is full or read-only, somewhere else.

    Raises:
        RunError: it could not be written to ``folder``; says where it lies instead.
    """
    try:
        with step(f"saving {folder}"):
            save_model(model, tokenizer, folder, provenance, card)
    except Exception as error:
        _remove_unfinished(folder)
        if (failure := write_failure(error)) is None:
            raise
        raise RunError(
            f"the model could not be written to {folder} ({failure[0]})",
            remedy=_rescued(model, tokenizer, folder, provenance, card),
        ) from error


def _rescued(
    model: PreTrainedModel, tokenizer: Any, folder: Path, provenance: Mapping[str, Any], card: str | None
) -> str:
    """Save the model where there is room; what to do then."""
    tried = []
    for place in dict.fromkeys((Path(tempfile.gettempdir()), Path.cwd(), Path.home())):
        out = place / f"quail-rescued-{partial_name(folder).name.strip('.')[: -len('.partial')]}"
        try:
            save_model(model, tokenizer, out, provenance, card)
        except Exception as error:  # of the disk or not: the next place is the model's last chance
            _remove_unfinished(out)
            tried.append(f"{place}: {error}")
        else:
            return f"It lies in {out}, complete: move it to where there is room"
    return f"Nor could it be written elsewhere ({'; '.join(tried)})"


def _remove_unfinished(folder: Path) -> None:
    shutil.rmtree(folder.with_name(f".{folder.name}.partial"), ignore_errors=True)
