"""Where a run writes its results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from quail_lightning.errors import InputError

STARTED = re.compile(r"config\.yaml|run\.json|hparams\.yaml|\.lock|events\.out\.tfevents\..*")
"""What is written when a run starts, before anything is computed; TensorBoard's events open with the start."""


def run_folder(trainer: Trainer) -> Path:
    """The logger's folder, or the Trainer's root where there is no logger; all processes must ask."""
    return Path(trainer.log_dir or trainer.strategy.broadcast(trainer.default_root_dir))


def refuse_other_run(folder: Path, checkpoint: str | Path | None) -> None:
    """Refuse a folder that holds another run than the one that a checkpoint goes on with.

    Raises:
        InputError: naming the folder.
    """
    if checkpoint is not None and folder.resolve() in Path(checkpoint).resolve().parents:
        return
    if held := [name for name in ("results.json", "config.yaml") if (folder / name).exists()]:
        raise InputError(
            f"the output folder {folder} already holds another run ({', '.join(held)})",
            remedy="Name another folder by trainer.logger.init_args.name or .version, or remove this one",
        )


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_started(made: Sequence[Path]) -> None:
    """Remove the folders of a run that came to nothing; one that holds more than a start stays.

    Args:
        made: those that the run made, the innermost first; it alone holds files.
    """
    if not made or not made[0].is_dir():
        return
    found = list(made[0].iterdir())
    if all(path.is_file() and STARTED.fullmatch(path.name) for path in found):
        for path in found:
            path.unlink()
        for folder in made:
            if any(folder.iterdir()):
                return
            folder.rmdir()
