"""Write the full training state so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.callbacks.first_process import check_by_first_process
from quail_lightning.callbacks.order import run_first
from quail_lightning.callbacks.progress_of_fit import is_epoch_over, is_training_over
from quail_lightning.errors import InputError, RunError
from quail_lightning.run.folder import run_folder
from quail_lightning.run.masking import masked
from quail_lightning.run.training_state import (
    SafetensorsIO,
    last_checkpoint,
    random_states,
    restore_random_states,
    write_manifest,
)
from quail_lightning.run.training_state.choosing import check_intact
from quail_lightning.run.training_state.folders import FOLDER, checkpoint_folder, remove_old
from quail_lightning.storage.disk_room import bytes_in, refuse_too_little_room
from quail_lightning.storage.durable import is_disk_full, publish, write_failure
from quail_lightning.storage.privacy import make_private, private_folder
from quail_lightning.unlearning.fitting import state_bytes
from quail_lightning.unlearning.preparation import origin, preparation, restore_preparation

RUN = "run.json"
STOPPED_BY_SIGTERM = 128 + signal.SIGTERM  # exit status, as a shell reports it


class TrainingCheckpoint(Callback):
    """Weights, optimizer, position inside the epoch, random states and preparations, in ``<run>/checkpoints``.

    A checkpoint is written under another name, reaches the disk, is vouched for by a manifest of digests and only
    then gets its own name: a process killed at any moment leaves none that is half written. One is written when
    an epoch's batches are done, before the evaluation, which may take longer than they did. ``--ckpt_path last``
    goes on from it; on a CPU the final weights are those of the undisturbed run to the last bit.

    SIGTERM ends a run at once, or after the optimizer step under way and its checkpoint, with status 143.

    Args:
        enabled: False writes none.
        every_n_steps: batches between two checkpoints inside an epoch; None for epochs' ends alone.
        keep: how many of the last ones stay on disk; one takes as much as model and optimizer together.
    """

    def __init__(self, enabled: bool = False, every_n_steps: int | None = None, keep: int = 2) -> None:
        for name, value in {"every_n_steps": every_n_steps, "keep": keep}.items():
            if value is not None and value < 1:
                raise InputError(f"checkpoint.{name} must be at least 1", given=value)
        self.enabled, self.every_n_steps, self.keep = enabled, every_n_steps, keep
        self._origin: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None  # this process's own part of the checkpoint, until it is used
        self._in_step = self._told_to_stop = False
        self._saved_inside: int | None = None  # batches before the last checkpoint that was not an epoch's end
        self._max_steps: int | None = None  # while Lightning must not know it
        self._run = Path()
        self._checked: Any = None  # the checkpoint that was found intact and this run's

    # --- before training -------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a damaged checkpoint, and one of another run, before a weight is loaded."""
        if stage != "fit":
            return
        run_first(trainer, self)  # an epoch's checkpoint is to lie on disk while the model is evaluated
        if isinstance(trainer.strategy, ModelParallelStrategy):
            from quail_lightning.run.training_state.shards import write_without_pickles  # 0.3 s of imports

            write_without_pickles(trainer.strategy)
        else:
            trainer.strategy.checkpoint_io = SafetensorsIO()
        self._checked = self._max_steps = self._saved_inside = None
        # by all processes, so that all refuse a changed file; each takes the target's digest for its cache anyway
        self._origin = masked(json.loads(json.dumps(origin(pl_module, trainer.world_size), default=str)))
        self._check(trainer)
        run = run_folder(trainer)
        if self.enabled:
            check_by_first_process(trainer, partial(self._check_room, pl_module, run))

    def _check_room(self, pl_module: Any, run: Path) -> None:
        """The next checkpoint is written before the oldest is removed."""
        refuse_too_little_room(
            f"training state, {self.keep + 1} checkpoints of it,",
            (self.keep + 1) * state_bytes(pl_module.memory_options),
            run,
            "Set checkpoint.keep to 1, checkpoint.enabled to false, or name another folder by trainer.logger",
            replaced=bytes_in(run / FOLDER),
        )

    def _check(self, trainer: Trainer) -> None:
        if trainer.ckpt_path == self._checked:
            return
        problem = self._problem(trainer) if trainer.is_global_zero else None
        if problem := trainer.strategy.broadcast(problem):
            raise problem
        self._checked = trainer.ckpt_path

    def _problem(self, trainer: Trainer) -> InputError | None:
        assert trainer.ckpt_path is not None
        folder = Path(trainer.ckpt_path)
        try:
            check_intact(folder)
            kept = json.loads((folder / RUN).read_bytes())
            _check_same_run(kept["origin"], self._origin, folder)
            if kept.get("inside_epoch") and -1 < trainer.max_steps <= kept["optimizer_steps"]:
                raise InputError(
                    f"trainer.max_steps has ended the epoch inside which {folder} lies: nothing is left to train",
                    given=trainer.max_steps,
                    remedy="Raise it, or go on from the checkpoint before",
                )
        except InputError as problem:
            return problem
        return None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["preparation"] = preparation(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)  # trainer.ckpt_path was checked in setup; fit()'s argument becomes known only now
        restore_preparation(pl_module, checkpoint["preparation"])
        assert trainer.ckpt_path is not None
        folder = Path(trainer.ckpt_path)
        self._resumed = json.loads(_own_file(folder, trainer.global_rank).read_bytes())
        # under a limit of steps Lightning begins a finished epoch again: it is to hear of it once that is decided
        epochs: Any = trainer.fit_loop.epoch_loop
        self._max_steps, epochs.max_steps = epochs.max_steps, -1
        step = json.loads((folder / RUN).read_bytes())["step"]
        if trainer.is_global_zero:
            _forget_events(trainer, step - bool(self._resumed["logged"]))

    # --- when ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Lightning's own handler only notes the signal and looks at it after a batch: an evaluation of an hour
        # would go on. Ours ends the run at once wherever no step is under way. Lightning puts the process's own
        # handler back when the fit ends.
        self._in_step = self._told_to_stop = False
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
        self._run = run_folder(trainer)  # asked by all processes, so never in a signal handler
        if self._resumed is not None:
            # a batch's checkpoint is written before Lightning logs the batch, and may be all that is left of it
            for logger in trainer.loggers if self._resumed["logged"] else ():
                logger.log_metrics(self._resumed["logged"], step=_trained_batches(trainer) - 1)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, frame: self._on_sigterm(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._in_step = True
        if self._resumed is not None:
            restore_random_states(self._resumed["random_states"])
            self._resumed = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_epoch_over(trainer):
            return  # the epoch's own checkpoint: from one written here Lightning would skip the end of the epoch
        told = self._is_any_told_to_stop(trainer)
        is_due = self.every_n_steps and _trained_batches(trainer) % self.every_n_steps == 0
        if told or is_due or is_training_over(trainer):
            self._save(trainer, _to_be_logged(trainer))
            self._saved_inside = _trained_batches(trainer)
        self._in_step = False
        if told or self._told_to_stop:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        # of an epoch that max_steps ended, only a checkpoint from inside can be gone on from
        if self._saved_inside != _trained_batches(trainer):
            self._save(trainer, {})
        self._in_step = False
        if self._is_any_told_to_stop(trainer):
            self._stop(trainer)

    # --- what ------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, logged: Mapping[str, float]) -> None:
        if not self.enabled:
            return
        for logger in trainer.loggers:
            logger.save()  # what was logged before this checkpoint is not logged again after it
        step = _trained_batches(trainer)
        run, folder = self._run, checkpoint_folder(self._run, step)
        partial = folder.with_name(f".{folder.name}.partial")
        if trainer.is_global_zero:
            for left in (partial, folder):  # of a run that was killed, or gone on with from before this step
                shutil.rmtree(left, ignore_errors=True)
            private_folder(partial, partial.parent)
        trainer.strategy.barrier()
        try:
            trainer.save_checkpoint(partial)
            own = {"random_states": random_states(), "logged": logged}
            _own_file(partial, trainer.global_rank).write_text(json.dumps(own), "utf-8")
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                described = {
                    "step": step,
                    "finished_epochs": _finished_epochs(trainer),
                    "optimizer_steps": trainer.global_step,
                    "inside_epoch": not is_epoch_over(trainer),
                    "written": datetime.now(UTC).isoformat(timespec="seconds"),
                    "reference_fingerprint": getattr(trainer.lightning_module.reference, "fingerprint", None),
                    "origin": self._origin,
                }
                (partial / RUN).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
                write_manifest(partial)
                for path in partial.rglob("*"):
                    make_private(path)
                publish(partial, folder)
                remove_old(run, self.keep)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            if write_failure(error) is not None:
                raise _not_written(run, step, error) from error
            raise
        trainer.strategy.barrier()

    # --- SIGTERM ---------------------------------------------------------------------------------------

    def _is_any_told_to_stop(self, trainer: Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self._told_to_stop, all=False))

    def _on_sigterm(self, trainer: Trainer) -> None:
        if not self._told_to_stop and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # pass it on to the processes that this one started
        self._told_to_stop = True
        if not self._in_step:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        last = last_checkpoint(self._run)
        remedy = f"go on from {last.folder} with --ckpt_path last" if last else "there is no checkpoint"
        rank_zero_info(f"\nEnded by SIGTERM after batch {_trained_batches(trainer)}: {remedy}")
        raise SystemExit(STOPPED_BY_SIGTERM)


def _trained_batches(trainer: Trainer) -> int:
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(progress.processed)


def _finished_epochs(trainer: Trainer) -> int:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)


def _own_file(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.json"


def _forget_events(trainer: Trainer, step: int) -> None:
    """Let TensorBoard leave out what was logged from a step on: the run that was cut short logged it, too."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            writer: Any = logger.experiment.file_writer
            writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))


def _to_be_logged(trainer: Trainer) -> dict[str, float]:
    """What Lightning will log of the batch that just ended; nothing where it does not log every batch."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    if _trained_batches(trainer) % every:
        return {}
    logged = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("train/")}
    return logged | {"epoch": trainer.current_epoch}


def _check_same_run(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    then = masked(then)  # an earlier version kept secrets, too
    differing = [name for name in now if then.get(name) != now[name]]
    if differing:
        changes = ", ".join(f"{name}: {then.get(name)!r} then, {now[name]!r} now" for name in differing)
        raise InputError(
            f"the run of {folder} was another one ({changes})",
            remedy="Resume with the same config and data; only trainer.max_epochs and max_steps may change",
        )


def _not_written(run: Path, step: int, error: BaseException) -> RunError:
    last = last_checkpoint(run)
    before = f"the one before, {last.folder}, is intact" if last else "there is none before it"
    remedy = "Make room (checkpoint.keep: 1 needs room for two)"
    why = f"the disk of {run} is full"
    if not is_disk_full(error):
        why, remedy = f"{run} cannot be written to any more ({error})", "Mend that"
    return RunError(
        f"{why}: the checkpoint after batch {step} could not be written; {before}",
        remedy=f"{remedy}, then go on with --ckpt_path last" if last else f"{remedy}, then start again",
    )
