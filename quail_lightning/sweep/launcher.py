"""Workers of a sweep as jobs of a cluster, submitted through submitit; the queue is the cluster's own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.configuration.bounded_yaml import config_text, load_yaml
from quail_lightning.errors import InputError, RunError
from quail_lightning.run.own_command import own_command
from quail_lightning.run.parent import dependent_process

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

WAIT = 5.0  # seconds between two looks at the jobs
EXECUTORS = ("slurm", "local")
EXECUTOR = "executor"


@dataclass(frozen=True)
class Jobs:
    """What one worker's job gets.

    Attributes:
        executor: ``slurm``, or ``local``: processes of this machine, to try it.
        parameters: submitit's, such as ``timeout_min`` and ``slurm_partition``.
    """

    executor: str
    parameters: Mapping[str, Any]


def read_jobs(path: Path) -> Jobs:
    """Read the file of ``--jobs``.

    Raises:
        InputError: no mapping, or no known executor.
    """
    found = load_yaml(config_text(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no options", allowed="executor: slurm, and submitit's parameters")
    executor = found.pop(EXECUTOR, EXECUTORS[0])
    if executor not in EXECUTORS:
        raise InputError(f"no such executor in {path}", given=executor, allowed=" or ".join(EXECUTORS))
    return Jobs(executor, found)


def check_submitit(jobs: Jobs) -> None:
    """See that submitit is there and that the executor works on this machine; nothing is written.

    Raises:
        InputError: it is not, or SLURM's commands are missing.
    """
    from shutil import which

    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--launcher submitit needs submitit ({error})", remedy="Run: pip install 'quail-lightning[cluster]'"
        ) from error
    if jobs.executor == "slurm" and which("srun") is None:
        raise InputError(
            "no SLURM on this machine: it has no srun",
            remedy="Start the sweep where jobs are submitted, or name a file with `executor: local` by --jobs",
        )


def submit(arguments: Sequence[str], jobs: Jobs, workers: int, folder: Path) -> list[Job[None]]:
    """Submit so many jobs, each of which runs one command of ``quail``.

    Args:
        arguments: of ``quail``.
        jobs: what each gets.
        workers: how many.
        folder: takes the jobs' logs and what submitit writes.

    Raises:
        InputError: submitit refuses a parameter, or the cluster the jobs.
    """
    from submitit.core.utils import FailedJobError

    executor = _executor(jobs, folder)
    try:
        return [executor.submit(work, list(arguments)) for _ in range(workers)]
    except FailedJobError as error:
        raise InputError(f"the cluster refused the jobs: {error}", given=dict(jobs.parameters)) from error


def _executor(jobs: Jobs, folder: Path) -> AutoExecutor:
    import submitit

    executor = submitit.AutoExecutor(folder, cluster=jobs.executor)
    try:
        executor.update_parameters(**{"name": "quail-sweep"} | dict(jobs.parameters))
    except (NameError, AssertionError, ValueError) as error:
        raise InputError(f"submitit refuses a parameter of the jobs: {error}") from error
    return executor


def work(arguments: Sequence[str]) -> None:
    """What a job does: the command in a process that ends when the job does.

    Raises:
        RuntimeError: it failed.
    """
    # SLURM warns every process of a job of its end; only submitit's own takes that for what it is
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with dependent_process(own_command(arguments)) as process:
            signal.signal(signal.SIGUSR2, before)
            status = process.wait()
    finally:
        signal.signal(signal.SIGUSR2, before)
    if status:
        raise RuntimeError(f"quail ended with status {status}")


def follow(submitted: Sequence[Job[None]], look: Callable[[], object], wait: float = WAIT) -> None:
    """Wait until every job has ended; where this is interrupted, they are cancelled.

    Args:
        submitted: the jobs.
        look: called between two looks at them.
        wait: seconds between those.
    """
    try:
        while not all(job.done() for job in submitted):
            look()
            time.sleep(wait)
    except BaseException:
        for job in submitted:
            job.cancel()
        raise


def check_ended(submitted: Sequence[Job[None]], open_trials: int) -> None:
    """Say what became of jobs that ended before all trials had.

    Args:
        submitted: which have ended.
        open_trials: how many trials are still to be run.

    Raises:
        RunError: there are some.
    """
    if not open_trials:
        return
    # a job of submitit's local executor counts as FINISHED whatever it did
    failed = {job.job_id: ", failed" if job.exception() is not None else "" for job in submitted}
    ended = ", ".join(f"{job.job_id} ({job.state}{failed[job.job_id]})" for job in submitted)
    raise RunError(
        f"{open_trials} trials are left, and every job has ended: {ended}; what they wrote stands in "
        f"{submitted[0].paths.stdout} and {submitted[0].paths.stderr}, and likewise of the others",
        remedy="Start the same command again: it goes on",
    )
