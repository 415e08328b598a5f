"""Loggers that keep runs elsewhere (W&B, MLflow): what they are told, and what is refused first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from quail_lightning.command_line.run_names import FOLDER_KEEPERS, Options, given_loggers, run_loggers
from quail_lightning.errors import InputError
from quail_lightning.run.out_of_memory import first_line
from quail_lightning.run.record import read_starts

EXTRA = "pip install 'quail-lightning[loggers]'"
METRICS = "metrics.csv"  # CSVLogger's, which begins it anew whenever it is opened
_NAME = {WandbLogger: "name", MLFlowLogger: "run_name"}
_IDENTITY = {WandbLogger: "id", MLFlowLogger: "run_id"}
_PACKAGE = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}
_OFFLINE = ("offline", "dryrun", "disabled")


def check_trackers(trainer: Any) -> list[InputError]:
    """What can be known to be wrong before a tracker is opened; W&B is told to take no output and no command line.

    Both may hold what the config's copy leaves out: secrets, names of persons, texts.

    Args:
        trainer: the Trainer's options, as parsed.
    """
    if trainer.get("fast_dev_run"):
        return []
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else each table of a new database has a line
    named = dict.fromkeys(kind for kind, _ in _trackers(trainer))
    problems = [problem for kind in named if (problem := _absent_package(kind))]
    options = [found for kind, found in _trackers(trainer) if issubclass(kind, WandbLogger)]
    return problems or (_check_wandb(options) if options else [])


def _absent_package(kind: type[Any]) -> InputError | None:
    package = next(package for known, package in _PACKAGE.items() if issubclass(kind, known))
    try:
        import_module(package)
    except ImportError as error:
        fact = f"trainer.logger: {kind.__name__} needs {package}, not installed here ({first_line(error)})"
        return InputError(fact, remedy=f"Run: {EXTRA}")
    return None


def _check_wandb(options: Sequence[Options]) -> list[InputError]:
    import wandb

    silent: dict[str, Any] = {"console": "off", "x_disable_meta": True, "disable_git": True, "disable_code": True}
    wandb.setup(wandb.Settings(**silent, host=""))  # None would be filled in
    online = any(not each.get("offline") for each in options) and os.environ.get("WANDB_MODE") not in _OFFLINE
    if not online or _has_key(wandb):
        return []
    return [
        InputError(
            "W&B has no key for this account",
            remedy="Log in by `wandb login`, or keep the run on this machine (WANDB_MODE=offline) and send it by "
            "`wandb sync` later",
        )
    ]


def _has_key(wandb: Any) -> bool:
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error:
        return False


@contextmanager
def named_trackers(trainer: Any) -> Iterator[None]:
    """Inside, the trackers that have no name are called after the run's folder, ``<config>/<method>-<when>``.

    Args:
        trainer: the Trainer's options, inside ``named_run``.
    """
    folders = [f"{options.get('name')}/{options.get('version')}" for options in run_loggers(trainer)]
    named = []
    for kind, options in _trackers(trainer):
        key = next(key for tracker, key in _NAME.items() if issubclass(kind, tracker))
        if folders and options.get(key) is None:
            options[key] = folders[0]
            named.append((options, key))
    try:
        yield
    finally:
        for options, key in named:
            options[key] = None


def open_trackers(trainer: Trainer) -> None:
    """Begin their runs, before anything is computed.

    Raises:
        InputError: a server does not answer, or refuses.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, FOLDER_KEEPERS):
            continue
        try:
            _ = logger.experiment  # type: ignore[attr-defined]  # Lightning asks for it too, at the training's start
        except Exception as error:  # each tracker has errors of its own, of its network and its server
            raise InputError(
                f"{type(logger).__name__} could not begin a run ({first_line(error)})",
                given="trainer.logger",
                remedy="See that its server answers, or leave that logger out",
            ) from error


def identities(loggers: list[Logger]) -> dict[str, str]:
    """Class of each tracker → its run's name in its store, by which the run is gone on with."""
    found = {type(each).__name__: each.version for each in loggers if isinstance(each, tuple(_IDENTITY))}
    return {name: str(version) for name, version in found.items() if version is not None}


def resume_trackers(trainer: Any, run: Path) -> None:
    """Let the trackers go on with their part of a run.

    Args:
        trainer: the Trainer's options, changed in place.
        run: folder of the run that goes on.
    """
    known = _known_identities(run)
    for kind, options in _trackers(trainer):
        key = next(key for tracker, key in _IDENTITY.items() if issubclass(kind, tracker))
        if options.get(key) is None and kind.__name__ in known:
            options[key] = known[kind.__name__]


def keep_table(trainer: Trainer, run: Path) -> None:
    """Give the table of a run that goes on another name: CSVLogger begins anew and removes what is there."""
    if trainer.is_global_zero and any(isinstance(each, CSVLogger) for each in trainer.loggers):
        number = 1 + len(list(run.glob("metrics-*.csv")))
        with suppress(FileNotFoundError):
            (run / METRICS).rename(run / f"metrics-{number}.csv")


def _known_identities(run: Path) -> Mapping[str, str]:
    try:
        told = [start.get("trackers") for start in read_starts(run)]
    except InputError:
        return {}  # damaged, which add_start says
    return next((found for found in reversed(told) if found and isinstance(found, dict)), {})


def _trackers(trainer: Any) -> Iterator[tuple[type[Any], Options]]:
    return ((kind, options) for kind, options in given_loggers(trainer) if issubclass(kind, tuple(_NAME)))
