"""``--ckpt_path last``: which run goes on, from which checkpoint, and how its logger takes up the thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quail_lightning.command_line.run_names import run_loggers
from quail_lightning.errors import InputError
from quail_lightning.run.training_state import Checkpoint, last_checkpoint, newest_run


def chosen_checkpoint(given: str, trainer: Any) -> Checkpoint:
    """The checkpoint that ``--ckpt_path`` means.

    Args:
        given: ``last`` (of the run that the logger names, or else of the youngest run beside it), or a folder.
        trainer: the Trainer's options, as parsed.

    Raises:
        InputError: there is none.
    """
    if given != "last":
        folder = Path(given)
        number = folder.name.removeprefix("step-")
        if not folder.is_dir() or not number.isdigit():
            raise InputError(
                "there is no checkpoint", given=given, allowed="last, or a folder <run>/checkpoints/step-…"
            )
        return Checkpoint(folder, int(number))
    loggers = run_loggers(trainer)
    if not loggers:
        folder = Path(trainer.default_root_dir or ".")
        run: Path | None = folder
    else:
        options = loggers[0]
        folder = Path(options["save_dir"], options.get("name") or "")
        version = options.get("version")
        named = f"version_{version}" if isinstance(version, int) else version
        run = newest_run(folder) if named is None else folder / named
    found = last_checkpoint(run) if run is not None else None
    if found is None:
        raise InputError(
            f"there is no checkpoint to go on from in {run or folder}",
            given="--ckpt_path last",
            remedy="Checkpoints are written with checkpoint.enabled: true. Without one, leave --ckpt_path out",
        )
    return found


def resume_logger(trainer: Any, checkpoint: Checkpoint) -> None:
    """Let the loggers write to the checkpoint's run.

    Args:
        trainer: the Trainer's options, changed in place.
        checkpoint: from which the run goes on. Where it lies in no run of a logger's, a new one begins.
    """
    for options in run_loggers(trainer):
        folder, run = Path(options["save_dir"], options.get("name") or ""), checkpoint.run.resolve()
        if run.parent == folder.resolve():
            options["version"] = run.name


def how_to_go_on(run: Path) -> str:
    """What to do about a run that was cut short."""
    last = last_checkpoint(run)
    if last is None:
        return f"{run} has no checkpoint to go on from (checkpoint.enabled: true writes them): start the run again"
    return f"The same command with --ckpt_path {last.folder} goes on from there"
