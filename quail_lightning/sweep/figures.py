"""What a trial is chosen by: the validation figures that `best` leaves in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quail_lightning.callbacks.keep_best import HISTORY
from quail_lightning.evaluation.selection import Likelihoods, forgetting_gap, kept_share
from quail_lightning.storage.vouched import DamagedError, load_vouched

SAME = 0.01  # relative: what other arithmetic may change of an NLL


class TrialFailed(Exception):
    """A trial came to nothing; the message says why."""


@dataclass(frozen=True)
class EpochFigures:
    """One epoch's figures on validation windows, each at its worst precision.

    Attributes:
        epoch: counted from 1.
        shortfall: nats a token; what the best epoch is chosen by.
        forgetting: what is missing from the goal's forget NLL, nats a token; 0 is best.
        utility: the target's perplexity on the retain windows over the model's, at most 1.
    """

    epoch: int
    shortfall: float
    forgetting: float
    utility: float


@dataclass(frozen=True)
class Validation:
    """What a run has written so far.

    Attributes:
        epochs: figures of each.
        yardstick: what they are measured against: the goal, and the target's NLLs.
        target_gap: the forgetting gap of the target itself, nats a token: what there is to be forgotten.
    """

    epochs: Sequence[EpochFigures]
    yardstick: Mapping[str, float]
    target_gap: float

    @property
    def best(self) -> EpochFigures | None:
        """Of the epoch whose model is kept; the first of those that are alike."""
        return min(self.epochs, key=lambda found: found.shortfall, default=None)

    def below(self, floor: float | None) -> EpochFigures | None:
        """The first epoch whose utility lies below the floor."""
        return next((found for found in self.epochs if floor is not None and found.utility < floor), None)


def read_validation(folder: Path) -> Validation | None:
    """The figures of a run's epochs so far; None before the first.

    Raises:
        TrialFailed: they were damaged, or there is no retain window to know the utility by.
    """
    try:
        content = load_vouched(folder / HISTORY)
    except FileNotFoundError:
        return None
    except DamagedError as damage:
        raise TrialFailed(f"{folder}: {damage}") from None
    if not content["settings"]["windows"].get("retain"):
        raise TrialFailed("no retain window is free of reported prompts, so that no utility can be measured")
    goal, target = content["goal"], _likelihoods(content["target"])
    # a run that was resumed where the file was damaged knows some epochs by their shortfall alone
    epochs = [_figures(entry, goal, target) for entry in content["epochs"] if "nll" in entry]
    nlls = {
        f"{precision} {name}": value
        for precision, found in content["target"].items()
        for name, value in found.items()
    }
    return Validation(epochs, {"goal": goal} | nlls, forgetting_gap(target, goal))


def is_same_yardstick(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two trials' figures can be compared."""
    return one.keys() == other.keys() and all(
        math.isclose(value, other[name], rel_tol=SAME) for name, value in one.items()
    )


def _figures(entry: Mapping[str, Any], goal: float, target: Mapping[str, Likelihoods]) -> EpochFigures:
    found = _likelihoods(entry["nll"])
    return EpochFigures(entry["epoch"], entry["shortfall"], forgetting_gap(found, goal), kept_share(found, target))


def _likelihoods(nlls: Mapping[str, Mapping[str, float]]) -> dict[str, Likelihoods]:
    return {precision: Likelihoods(found["forget"], found["retain"]) for precision, found in nlls.items()}
