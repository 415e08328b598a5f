"""Runs are named after what they are: ``logs/<config>/<method>-<when>``, unless their logger is given a name."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from quail_lightning.configuration.import_gate import import_class
from quail_lightning.run.folder import missing_folders
from quail_lightning.terminal import is_first_rank
from quail_lightning.unlearning.method_name import EXTRAS, method_name

UNNAMED = "lightning_logs"  # what Lightning calls the runs of a logger without a name

FOLDER_KEEPERS = (TensorBoardLogger, CSVLogger)

Options = MutableMapping[str, Any]


def given_loggers(trainer: Any) -> Iterator[tuple[type[Any], Options]]:
    """Class and arguments of each logger, as parsed.

    Args:
        trainer: the Trainer's options.
    """
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        if isinstance(logger, Namespace):
            yield import_class(logger.class_path), logger.init_args


def run_loggers(trainer: Any) -> list[Options]:
    """The arguments of the loggers that keep their runs in ``save_dir/name/version``, as parsed.

    Args:
        trainer: the Trainer's options.
    """
    return [options for kind, options in given_loggers(trainer) if issubclass(kind, FOLDER_KEEPERS)]


def name_after_config(trainer: Any, configs: Sequence[Any], folder: str | None = None) -> None:
    """Let the first config's name be the name of a logger that has none; Lightning's default logger gets one, too.

    A logger that keeps no folder of the run's own (W&B, MLflow) has TensorBoard's before it, which does: results,
    model and checkpoints lie there, and Lightning asks the first logger where that is.

    Args:
        trainer: the Trainer's options, changed in place.
        configs: the config files, in order.
        folder: of the run, in place of what the loggers say; an option of theirs would not reach all of a list.
    """
    if trainer.logger is False and folder is not None:
        trainer.default_root_dir = folder
    if trainer.logger is not False:
        named = [] if trainer.logger in (None, True) else trainer.logger
        given = named if isinstance(named, list) else [named]
        keepers = [each for each in given if isinstance(each, Namespace) and _keeps_folder(each)]
        if not keepers:
            place = Namespace(save_dir=trainer.default_root_dir or "logs", name=UNNAMED, version=None)
            keepers = [Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=place)]
        others = [each for each in given if not any(each is keeper for keeper in keepers)]
        trainer.logger = [*keepers, *others] if others or len(keepers) > 1 else keepers[0]
    name = Path(str(configs[0])).stem if configs else "unnamed"
    for options in run_loggers(trainer):
        if options.get("name") == UNNAMED:
            options["name"] = name
        if folder is not None:
            own = Path(folder)
            options["save_dir"], options["name"] = str(own.parent.parent), own.parent.name
            options["version"] = own.name


@contextmanager
def named_run(trainer: Any, method: str) -> Iterator[list[Path]]:
    """Name, for as long as the loggers are made, those that have no version; the config that is kept has none.

    The first rank makes the run's folder, so that no other run gets the name; the others learn it from the first,
    through ``run_folder``, before anything is written.

    Args:
        trainer: the Trainer's options, with a version in the meantime.
        method: short name of what is done.

    Yields:
        the folders that were made, the innermost first.
    """
    loggers = run_loggers(trainer)
    unnamed = [options for options in loggers if options.get("version") is None]
    made: list[Path] = []
    if unnamed and not trainer.fast_dev_run:
        given = [version for options in loggers if (version := options.get("version")) is not None]
        name = given[0] if given else f"{method}-{time.strftime('%Y%m%d-%H%M%S')}"
        if not given and is_first_rank():
            name, made = _reserved(_folder(loggers[0]), name)
        for options in unnamed:
            options["version"] = name
    try:
        yield made
    finally:
        for options in unnamed:
            options["version"] = None


def described_method(verb: str, section: Any) -> str:
    """What a run of one of Lightning's verbs is called: a training after its method, anything else after the verb.

    Args:
        verb: ``fit``, ``validate`` or ``test``.
        section: its options, as parsed.
    """
    if verb != "fit":
        return verb
    terms = [section.model.get(side) for side in ("forget", "retain", "hinge")]
    forget, retain, hinge = (type(None) if term is None else import_class(term.class_path) for term in terms)
    form = "hinge" if terms[2] is None else terms[2].get("init_args", {}).get("form", "hinge")
    options = [section.model, section.data.get("init_args") or {}]
    extras = {name: next((o.get(name) for o in options if o.get(name) is not None), None) for name in EXTRAS}
    return method_name(forget, retain, hinge, form=form, extras=extras)


def _keeps_folder(logger: Namespace) -> bool:
    return issubclass(import_class(logger.class_path), FOLDER_KEEPERS)


def _folder(options: Options) -> Path:
    return Path(os.path.expandvars(options["save_dir"])).expanduser() / (options.get("name") or "")


def _reserved(folder: Path, name: str) -> tuple[str, list[Path]]:
    """A name that no other run has, not even one that begins this very moment, and what was made for it."""
    for number in itertools.count(1):
        run = folder / (name if number == 1 else f"{name}-{number}")
        made = missing_folders(run)
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            if os.path.lexists(run):
                continue
            break
        except OSError:  # refused in our words later on
            break
        return run.name, made
    return name, []
