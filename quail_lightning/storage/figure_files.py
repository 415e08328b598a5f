"""A figure in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quail_lightning.storage.durable import partial_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(figure: Figure, path: Path, dots_per_inch: int) -> None:
    """Write a figure as PNG or SVG, by the name's ending, whole or not at all."""
    ending = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if ending == "svg" else None  # the same figure gives the same file
    partial = partial_name(path)
    try:
        figure.savefig(partial, format=ending, dpi=dots_per_inch, metadata=metadata)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
