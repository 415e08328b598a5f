"""Where a run's checkpoints lie: ``<run>/checkpoints/step-00000120``, by the batches that were trained on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoint(NamedTuple):
    """One finished checkpoint.

    Attributes:
        folder: its own.
        step: batches trained on before it was written, over all epochs.
    """

    folder: Path
    step: int

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder.parent.parent


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after so many batches lies."""
    return run / FOLDER / f"step-{step:08d}"


def checkpoints_in(run: Path) -> list[Checkpoint]:
    """A run's finished checkpoints, oldest first."""
    found = []
    for path in (run / FOLDER).glob("step-*"):
        if path.is_dir() and (match := _NAME.fullmatch(path.name)):
            found.append(Checkpoint(path, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def last_checkpoint(run: Path) -> Checkpoint | None:
    """A run's newest finished checkpoint."""
    found = checkpoints_in(run)
    return found[-1] if found else None


def newest_run(folder: Path) -> Path | None:
    """Among the runs in a folder, the one whose last checkpoint is the youngest; None where none has one."""
    runs = [run for run in folder.glob("*") if run.is_dir() and not run.is_symlink()]  # not `latest`
    found = [last for run in runs if (last := last_checkpoint(run))]
    return max(found, key=lambda last: last.folder.stat().st_mtime_ns).run if found else None


def remove_old(run: Path, keep: int) -> None:
    """Remove all checkpoints of a run but the last ``keep``, and what killed writes left."""
    for checkpoint in checkpoints_in(run)[:-keep]:
        # the name goes first: a checkpoint that is half removed must not look like one
        doomed = checkpoint.folder.with_name(f".{checkpoint.folder.name}.removed")
        checkpoint.folder.rename(doomed)
    for path in (run / FOLDER).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
