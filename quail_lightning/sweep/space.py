"""A space of options: which ones a sweep tries, over which values."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.errors import InputError

Value = bool | int | float | str | None
SAMPLERS = ("grid", "random", "tpe")
MOST_POINTS = 10_000  # of a grid
OWN = (
    "best.enabled",
    "evaluation.baselines",
    "trainer.logger",
    "trainer.fast_dev_run",
    "ckpt_path",
    "config",
    "run_folder",
)
"""Options of each trial that the sweep itself sets, or that leave no figures to choose by."""
_KEY = re.compile(r"\w+(\.\w+)*")
_ALLOWED = "values: [1, 5, 20], or low: 1.0e-6 and high: 1.0e-4, with log: true or integer: true"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def samples(self) -> tuple[Value, ...]:
        """What is checked before the sweep begins: all of them."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included.

    Attributes:
        low: lower bound.
        high: upper bound.
        log: drawn evenly on a logarithmic scale.
        integer: whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def samples(self) -> tuple[Value, ...]:
        """What is checked before the sweep begins: the bounds; an option of whole numbers refuses 1.0."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """What a space file says.

    Attributes:
        sampler: ``grid`` (every combination once, in shuffled order), ``random`` or ``tpe`` (Optuna's
            multi-objective Tree-structured Parzen Estimator).
        options: dotted option → its values.
        utility_floor: a trial that keeps less of the target's utility is stopped, a fraction; None for none.
    """

    sampler: str
    options: Mapping[str, Choice | Range]
    utility_floor: float | None = None

    def grid(self) -> list[dict[str, Value]]:
        """Every combination, shuffled so that half a grid is spread out, for every worker in the same order."""
        choices = [choice.values for choice in self.options.values() if isinstance(choice, Choice)]
        points = [dict(zip(self.options, values, strict=True)) for values in itertools.product(*choices)]
        random.Random(0).shuffle(points)
        return points

    def as_json(self) -> dict[str, Any]:
        """What tells it from another space."""
        options = {
            key: list(found.values) if isinstance(found, Choice) else vars(found)
            for key, found in sorted(self.options.items())
        }
        return {"sampler": self.sampler, "options": options, "utility_floor": self.utility_floor}


def option(key: str, value: Value) -> str:
    """An option as the command line takes it."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_space(path: Path) -> Space:
    """Read a space file.

    Raises:
        InputError: naming the file and the key that does not fit.
    """
    try:
        content = read_yaml(path)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the space {path} cannot be read: {' '.join(str(error).split())}") from error
    known = {"sampler", "options", "utility_floor"}
    if not isinstance(content, dict) or not isinstance(content.get("options"), dict) or not content["options"]:
        raise InputError(f"the space {path} names no options", allowed=f"options: {{model.alpha: {{{_ALLOWED}}}}}")
    if unknown := [str(key) for key in content if key not in known]:
        raise InputError(f"the space {path} has unknown keys", given=unknown, allowed=", ".join(sorted(known)))
    sampler = content.get("sampler", "tpe")
    if sampler not in SAMPLERS:
        raise InputError(f"the space {path} names no such sampler", given=sampler, allowed=", ".join(SAMPLERS))
    floor = content.get("utility_floor")
    if floor is not None and not (_is_number(floor) and 0 < floor < 1):
        raise InputError(
            f"utility_floor in the space {path} is a share of the target's utility",
            given=floor,
            allowed="a number between 0 and 1, such as 0.8, or null",
        )
    options = {key: _values(f"{key} in the space {path}", key, given) for key, given in content["options"].items()}
    _check_apart(options, path)
    space = Space(sampler, options, floor)
    if sampler == "grid":
        _check_grid(space, path)
    return space


def check_apart_from(space: Space, arguments: Iterable[str]) -> None:
    """Refuse a space over options that the command line sets, too: one of the two would be ignored.

    Args:
        space: read from its file.
        arguments: of `quail fit`.

    Raises:
        InputError: naming the options.
    """
    given = [part.removeprefix("--").partition("=")[0] for part in arguments if part.startswith("--")]
    if both := [key for key in space.options if any(_overlap(key, other) for other in given)]:
        raise InputError(
            "the space and the command line set the same options",
            given=", ".join(both),
            remedy="Take them from the one or from the other",
        )
    if own := [key for key in given if key != "config" and any(_overlap(key, other) for other in OWN)]:
        raise InputError("a sweep sets these options of its trials itself", given=", ".join(own))


def _values(what: str, key: object, given: object) -> Choice | Range:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InputError(f"{what} is no option", allowed="a dotted name, such as model.alpha")
    if any(_overlap(key, own) for own in OWN):
        raise InputError(f"{what}: a sweep sets this option of its trials itself")
    if not isinstance(given, dict):
        raise InputError(f"{what} has no values", given=given, allowed=_ALLOWED)
    if given.keys() == {"values"}:
        return _choice(what, given["values"])
    if {"low", "high"} <= given.keys() <= {"low", "high", "log", "integer"}:
        return _range(what, **given)
    raise InputError(f"{what} does not fit", given=given, allowed=_ALLOWED)


def _choice(what: str, values: object) -> Choice:
    if not isinstance(values, list) or not values:
        raise InputError(f"{what}: values is a list of at least one value", given=values)
    if wrong := [value for value in values if not isinstance(value, (bool, int, float, str, type(None)))]:
        raise InputError(f"{what}: a value is a number, a text, true, false or null", given=wrong[0])
    if wrong := [value for value in values if isinstance(value, float) and not math.isfinite(value)]:
        raise InputError(f"{what}: a value is a finite number", given=wrong[0])
    if len(set(values)) < len(values):  # 1, 1.0 and true are one value to the study
        raise InputError(f"{what} names a value twice", given=values)
    return Choice(tuple(values))


def _range(what: str, low: object, high: object, log: object = False, integer: object = False) -> Range:
    for name, value in {"log": log, "integer": integer}.items():
        if not isinstance(value, bool):
            raise InputError(f"{what}: {name} is true or false", given=value)
    for name, value in {"low": low, "high": high}.items():
        if not _is_number(value) or (integer and not isinstance(value, int)):
            kind = "a whole number" if integer else "a finite number, such as 1.0e-5"
            raise InputError(f"{what}: {name} is {kind}", given=value)
    assert isinstance(low, (int, float))
    assert isinstance(high, (int, float))
    if low >= high:
        raise InputError(f"{what}: low must lie below high", given={"low": low, "high": high})
    if log and low <= 0:
        raise InputError(f"{what}: low must be above 0 on a logarithmic scale", given=low)
    return Range(low, high, bool(log), True) if integer else Range(float(low), float(high), bool(log))


def _check_apart(options: Iterable[str], path: Path) -> None:
    for one, other in itertools.combinations(options, 2):
        if _overlap(one, other):
            raise InputError(f"the space {path} sets one option twice", given=f"{one} and {other}")


def _check_grid(space: Space, path: Path) -> None:
    if ranges := [key for key, found in space.options.items() if isinstance(found, Range)]:
        raise InputError(
            f"a grid has no ranges (the space {path})",
            given=", ".join(ranges),
            remedy="List its values, or take the sampler random or tpe",
        )
    points = math.prod(len(found.samples()) for found in space.options.values())
    if points > MOST_POINTS:
        raise InputError(
            f"the grid of the space {path} is too large", given=points, allowed=f"at most {MOST_POINTS:,} points"
        )


def _overlap(one: str, other: str) -> bool:
    """Whether two options are the same, or one a section that holds the other."""
    first, second = list(_parts(one)), list(_parts(other))
    shared = min(len(first), len(second))
    return first[:shared] == second[:shared]


def _parts(key: str) -> Iterator[str]:
    """Of an option's name, whose class arguments need not be called ``init_args``."""
    return (part for part in key.split(".") if part != "init_args")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
