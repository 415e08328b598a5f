"""One trial: a `quail fit` in a process of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quail_lightning.run.masking import masked, masked_command
from quail_lightning.run.own_command import own_command
from quail_lightning.run.parent import dependent_process
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.storage.locks import hold, lock_in, released_afterwards
from quail_lightning.storage.privacy import open_private
from quail_lightning.sweep.figures import TrialFailed
from quail_lightning.sweep.space import Choice, Space, Value, option

POLL = 0.5  # seconds between two looks at the process
TAIL = 20_000  # bytes of a log in which the reason of a failure is looked for
BASELINES = "baselines"  # what is measured of target and retrained model, which all trials share
MODEL = "model"  # written last and whole (export.folder), so it tells that a run is finished
_ERROR = re.compile(r"^(?:error: |\w*(?:Error|Exception)\b)", re.MULTILINE)


@dataclass(frozen=True)
class SweepPlan:
    """What all trials share.

    Attributes:
        fit: arguments of `quail fit`, configs first.
        space: what is tried.
        trials: how many of them in all.
        out: folder of the sweep.
    """

    fit: tuple[str, ...]
    space: Space
    trials: int
    out: Path

    def folder(self, number: int) -> Path:
        """Run folder of a trial."""
        return self.out / f"trial-{number:04d}"

    def log(self, number: int) -> Path:
        """What a trial's process wrote."""
        return self.out / f"trial-{number:04d}.log"

    def options(self, values: Mapping[str, Value]) -> list[str]:
        """What `quail fit` gets for these values of the space."""
        return [*self.fit, "--best.enabled=true", *(option(key, value) for key, value in values.items())]

    def arguments(self, number: int, values: Mapping[str, Value]) -> list[str]:
        """Of `quail`, for one trial."""
        place = [f"--run_folder={self.folder(number)}", f"--evaluation.baselines={self.out / BASELINES}"]
        return ["fit", *self.options(values), *place]


def suggested(trial: Any, space: Space) -> dict[str, Value]:
    """The values that Optuna gives a trial."""
    found: dict[str, Value] = {}
    for key, given in space.options.items():
        if isinstance(given, Choice):
            found[key] = trial.suggest_categorical(key, list(given.values))
        elif given.integer:
            found[key] = trial.suggest_int(key, int(given.low), int(given.high), log=given.log)
        else:
            found[key] = trial.suggest_float(key, given.low, given.high, log=given.log)
    return found


def how_to_begin(folder: Path) -> list[str] | None:
    """What a trial's command needs besides, where an earlier attempt left its folder; None: that one was finished.

    An attempt that left no checkpoint is removed, once its process has ended.
    """
    if not folder.is_dir():
        return []
    with released_afterwards():
        hold(lock_in(folder), f"the run's folder {folder}", wait=True)
        if (folder / MODEL).is_dir():
            return None
        if last_checkpoint(folder) is not None:
            return ["--ckpt_path=last"]
        shutil.rmtree(folder)
    return []


def run_fit(arguments: Sequence[str], log: Path, watch: Callable[[], bool]) -> None:
    """Run a trial's command until it has ended; it ends when this process does, however that ends.

    Args:
        arguments: of `quail`.
        log: takes what it writes; its owner alone may read it.
        watch: called every ``POLL`` seconds; False ends the command.

    Raises:
        TrialFailed: the command failed, with the line that says why.
    """
    log.unlink(missing_ok=True)  # of an earlier attempt
    with open(open_private(log), "wb") as file:
        file.write(f"quail {' '.join(masked_command(arguments))}\n".encode())
        file.flush()
        with dependent_process(own_command(arguments), output=file) as process:
            ended = False
            try:
                while process.poll() is None:
                    if not watch():
                        ended = True
                        break
                    time.sleep(POLL)
            finally:
                _end(process)
    if process.returncode and not ended:
        raise TrialFailed(failure(log, process.returncode))


def failure(log: Path, status: int) -> str:
    """The line of a log that says why its process failed, without secrets."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    said = [line for line in lines if _ERROR.match(line)] or lines[-1:]
    return str(masked(f"exit status {status}: {said[-1] if said else 'nothing was said'}"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nobody else writes into the trial's folder once this has returned."""
    if process.poll() is None:
        process.terminate()
    process.wait()
