"""Which checkpoint a run goes on from, and whether it can be read."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.configuration.allowed_code import code_refused, is_code_allowed
from quail_lightning.errors import InputError
from quail_lightning.run.training_state.folders import Checkpoint, checkpoints_in, last_checkpoint
from quail_lightning.run.training_state.manifest import MANIFEST, DamagedError, verify

SHARDS = "shards.json"  # describes the shards of a sharded model
PICKLED = ".metadata"  # torch's own description of them


def check_intact(folder: Path) -> None:
    """Read a checkpoint to its last byte.

    Raises:
        InputError: it is none, damaged (the remedy names the newest intact one before it) or pickled.
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
    check_not_pickled(folder)


def check_not_pickled(folder: Path) -> None:
    """Refuse a sharded checkpoint of an earlier version, which pickled what describes the shards.

    Raises:
        InputError: it is one, and no code is allowed.
    """
    if is_pickled(folder) and not is_code_allowed():
        raise code_refused(
            "the checkpoint is an earlier version's, and its pickled parts may run any program", str(folder)
        )


def is_pickled(folder: Path) -> bool:
    """Whether torch's own description of the shards lies there, and ours does not."""
    return (folder / PICKLED).exists() and not (folder / SHARDS).exists()


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
