"""Which checkpoint a run goes on from, and whether it can be read."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.errors import InputError
from quail_lightning.training_state.folders import Checkpoint, checkpoints_in, last_checkpoint
from quail_lightning.training_state.manifest import MANIFEST, DamagedError, verify


def check_intact(folder: Path) -> None:
    """Read a checkpoint to its last byte.

    Raises:
        InputError: it is none, or damaged; the remedy names the newest intact one before it.
    """
    if not folder.is_dir():
        raise InputError("there is no checkpoint folder", given=str(folder), allowed=_offer(folder.parent.parent))
    try:
        verify(folder)
    except DamagedError as damage:
        before = intact_before(folder)
        raise InputError(
            f"the checkpoint {folder} is damaged: {damage}",
            remedy=(
                f"The one before it is intact: --ckpt_path {before.folder}"
                if before
                else "There is no intact one before it: start again, under a new trainer.logger.init_args.version"
            ),
        ) from damage


def intact_before(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of the same run that is older and can be read to its last byte."""
    older = [found for found in checkpoints_in(folder.parent.parent) if found.folder.name < folder.name]
    for checkpoint in reversed(older):
        try:
            verify(checkpoint.folder)
        except DamagedError:
            continue
        return checkpoint
    return None


def _offer(run: Path) -> str:
    last = last_checkpoint(run)
    return f"a folder <run>/checkpoints/step-… with a {MANIFEST}" + (f", such as {last.folder}" if last else "")
