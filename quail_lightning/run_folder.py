"""Where a run writes its results."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """The logger's folder, or the Trainer's root where there is no logger; all processes must ask."""
    return Path(trainer.log_dir or trainer.default_root_dir)
