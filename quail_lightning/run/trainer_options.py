"""The Trainer's options: those that this program does not use, and Lightning's own refusals in its words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from quail_lightning.errors import InputError
from quail_lightning.run.out_of_memory import first_line

OPTIONS = tuple(name for name in inspect.signature(Trainer.__init__).parameters if name != "self")
AT_LEAST = {"check_val_every_n_epoch": 1, "log_every_n_steps": 0, "num_sanity_val_steps": -1, "min_epochs": 0}
HARDWARE = ("accelerator", "devices", "strategy")
"""Of which Lightning's message may name none."""


def check_options(trainer: Any) -> list[InputError]:
    """What is wrong with the Trainer's options, as parsed, that Lightning would notice late or never.

    Args:
        trainer: options by name; those that are absent are at their defaults.
    """
    problems = []
    if (clip := trainer.get("gradient_clip_val")) is not None:
        problems.append(
            InputError(
                "the module clips each optimizer step itself, and the Trainer cannot",
                given=f"trainer.gradient_clip_val: {clip}",
                allowed="null",
                remedy=f"Set model.clip_norm: {clip}",
            )
        )
    if (algorithm := trainer.get("gradient_clip_algorithm")) is not None:
        problems.append(
            InputError(
                "the module clips each optimizer step itself, by the gradient's norm",
                given=f"trainer.gradient_clip_algorithm: {algorithm}",
                allowed="null",
                remedy="Set model.clip_norm to the largest norm",
            )
        )
    if (batches := trainer.get("accumulate_grad_batches")) not in (None, 1):
        problems.append(
            InputError(
                "the module accumulates gradients itself, and the Trainer cannot",
                given=f"trainer.accumulate_grad_batches: {batches}",
                allowed="1",
                remedy="Set data.batch_size to the windows of an optimizer step, and model.micro_batch_size to "
                "those of a pass",
            )
        )
    if trainer.get("barebones"):
        problems.append(InputError("trainer.barebones logs nothing, and a run is evaluated by what it logs"))
    for name, least in AT_LEAST.items():
        value = trainer.get(name)
        if value is not None and value < least:
            problems.append(InputError(f"trainer.{name} must be at least {least}", given=value))
    return problems


@contextmanager
def explained_refusals(given: Mapping[str, Any], prefix: str = "trainer.") -> Iterator[None]:
    """Turn what Lightning refuses inside into an InputError that names the options.

    Args:
        given: the Trainer's options.
        prefix: of their names on the command line.

    Raises:
        InputError: Lightning, or a package that it misses, refused something.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not is_refusal(error):
            raise
        raise refusal(error, given, prefix) from error


ABSENT = re.compile(r"Requirement '[^']*' not met")
"""Lightning's words for a missing package, which jsonargparse quotes where there are several loggers."""


def is_refusal(error: BaseException) -> bool:
    """Whether Lightning itself raised an error, and no code that it called."""
    if isinstance(error, MisconfigurationException) or ABSENT.search(str(error)):
        return True
    if not isinstance(error, (ValueError, TypeError, ImportError, RuntimeError)):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return name.partition(".")[0] in ("lightning", "lightning_utilities", "lightning_fabric")


def refusal(error: BaseException, given: Mapping[str, Any], prefix: str = "trainer.") -> InputError:
    """What Lightning refused, with the options that it concerns.

    Args:
        error: Lightning's own.
        given: the Trainer's options; empty where they are not known.
        prefix: of their names on the command line.
    """
    said, absent = first_line(error), ABSENT.search(str(error))
    if isinstance(error, ImportError) or absent:
        said = absent[0] if absent else said
        named = [name for name in ("logger", "profiler") if given.get(name)]
        return InputError(
            f"a package is missing ({said})",
            given=_shown(named or HARDWARE, given, prefix) or None,
            remedy="Install it (W&B, MLflow: pip install 'quail-lightning[loggers]'), or choose another; "
            "lightning.pytorch.loggers.TensorBoardLogger is installed",
        )
    if "numpy accepts" in said:  # of Lightning's seed_everything, which checks it
        return InputError(f"seed_everything is out of range ({said})")
    said = re.sub(r"`Timer\(duration=(.*?)\)`", r"max_time: \1", said)
    named = [name for name in OPTIONS if re.search(rf"\b{name}\b", said)]
    if not named and re.search(r"accelerator|backend|device|gpu|cuda", said, re.IGNORECASE):
        named = list(HARDWARE)
    remedy = f"Change {', '.join(prefix + name for name in named)}" if named else "Change the trainer's options"
    if set(named) & set(HARDWARE):
        gpus = torch.cuda.device_count()
        remedy = (
            f"This machine has {gpus or 'no'} GPU{'' if gpus == 1 else 's'}; {prefix}accelerator: auto and "
            f"{prefix}devices: auto take what is there"
        )
    fact = f"Lightning refuses the Trainer's options ({said.rstrip('.!')})"
    return InputError(fact, given=_shown(named, given, prefix) or None, remedy=remedy)


def _shown(names: Any, given: Mapping[str, Any], prefix: str) -> str:
    values = {name: given.get(name) for name in names}
    return ", ".join(f"{prefix}{name}: {_named(value)}" for name, value in values.items() if value is not None)


def _named(value: Any) -> Any:
    """Of a class that was configured or built, its name."""
    if isinstance(value, (str, int, float, list, tuple)):
        return value
    return getattr(value, "class_path", None) or type(value).__name__
