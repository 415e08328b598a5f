"""One worker: it takes trials until all of the study's have ended, its own and other workers'."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from quail_lightning.sweep.figures import TrialFailed, Validation, is_same_yardstick, read_validation
from quail_lightning.sweep.space import Value
from quail_lightning.sweep.study import REASON, SURPLUS, origin, rank, slots, take_up
from quail_lightning.sweep.trial import SweepPlan, how_to_begin, run_fit, suggested

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

WAIT = 3.0  # seconds between two looks at what other workers do
FIGURES = ("epoch", "forgetting", "utility", "shortfall")
YARDSTICK = "yardstick"

RunFit = Callable[..., None]


class Shown(Protocol):
    """Who is told what happens."""

    def say(self, line: str) -> None:
        """Something happened."""

    def look(self) -> None:
        """Time has passed."""


class Left(Enum):
    """What is left to do."""

    TO_RUN = auto()  # trials that nobody has
    RUNNING = auto()  # those of other workers
    NONE = auto()


class Terminated(KeyboardInterrupt):
    """SIGTERM, which Optuna is to treat as Ctrl-C."""


@dataclass
class Worker:
    """Runs trials of a study.

    Attributes:
        study: shared with other workers.
        plan: what all trials share.
        shown: is told what happens.
        run_fit: runs one trial's command.
        wait: seconds between two looks at what other workers do.
    """

    study: Study
    plan: SweepPlan
    shown: Shown
    run_fit: RunFit = run_fit
    wait: float = WAIT

    def work(self) -> None:
        """Run what is not taken, then wait for the others' trials, and take up those whose worker has died.

        Raises:
            KeyboardInterrupt: the trial under way is noted, to be taken up again.
        """
        terminated = False
        with _as_interrupt():
            try:
                self.take_all()
            except Terminated:
                terminated = True
        if terminated:  # outside, since the command line takes a SystemExit that comes of an interrupt for Ctrl-C
            raise SystemExit(128 + signal.SIGTERM)

    def take_all(self) -> None:
        """As ``work``, with SIGTERM left as it is: signals belong to the first thread."""
        while (left := self._left()) is not Left.NONE:
            if left is Left.TO_RUN:
                self._take_one()
            else:
                self.shown.look()
                time.sleep(self.wait)

    def _left(self) -> Left:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)  # and takes them up, see take_up
        found = slots(self.study.get_trials(deepcopy=False))
        states = {trial.state.name for trial in found}
        if len(found) < self.plan.trials or "WAITING" in states:
            return Left.TO_RUN
        return Left.RUNNING if "RUNNING" in states else Left.NONE

    def _take_one(self) -> None:
        self._trial: Trial | None = None
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(TrialFailed,))
        except KeyboardInterrupt:
            if self._trial is not None:
                take_up(self.study, self._stored(self._trial), counts=False)
            raise
        except ValueError:
            # while this machine slept, another worker took it for dead
            if self._trial is None or not self._stored(self._trial).state.is_finished():
                raise

    def _objective(self, trial: Trial) -> tuple[float, float]:
        self._trial = trial
        number = origin(self._stored(trial))
        if rank(self.study.get_trials(deepcopy=False), number) >= self.plan.trials:
            self._trial = None  # another worker began the last one at the same moment
            trial.set_user_attr(SURPLUS, True)
            raise TrialFailed("one more than there are to be")
        values = suggested(trial, self.plan.space)
        try:
            return self._figures(trial, number, values)
        except TrialFailed as error:
            trial.set_user_attr(REASON, str(error))
            self.shown.say(f"trial {number}: failed, {error}")
            raise

    def _figures(self, trial: Trial, number: int, values: dict[str, Value]) -> tuple[float, float]:
        """Run the trial where that is not done; its objectives."""
        import optuna

        folder = self.plan.folder(number)
        further = how_to_begin(folder)
        named = " ".join(f"{key}={value}" for key, value in values.items())
        if further is None:
            self.shown.say(f"trial {number}: {named}: its run was finished before")
        else:
            how = ", from its last checkpoint on" if further else ""
            self.shown.say(f"trial {number}: {named}{how}")
            arguments = [*self.plan.arguments(number, values), *further]
            self.run_fit(arguments, self.plan.log(number), self._is_worth_it(number))
        found = read_validation(folder)
        if found is None or found.best is None:
            raise TrialFailed("no epoch was finished, so that there are no validation figures")
        self._check_yardstick(found)
        trial.set_user_attr(YARDSTICK, dict(found.yardstick))
        trial.set_user_attr("target_gap", found.target_gap)
        low = found.below(self.plan.space.utility_floor)
        told = low or found.best
        for name in FIGURES:
            trial.set_user_attr(name, getattr(told, name))
        kept = f"forgetting gap {told.forgetting:.3f} nats a token, utility kept {told.utility:.1%}"
        if low is not None:
            trial.set_user_attr(REASON, f"utility below the floor after epoch {low.epoch}")
            self.shown.say(f"trial {number}: stopped below the utility floor after epoch {low.epoch}: {kept}")
            raise optuna.TrialPruned
        self.shown.say(f"trial {number}: epoch {told.epoch}, {kept}")
        return told.forgetting, told.utility

    def _is_worth_it(self, number: int) -> Callable[[], bool]:
        def watch() -> bool:
            self.shown.look()
            found = read_validation(self.plan.folder(number))
            return found is None or found.below(self.plan.space.utility_floor) is None

        return watch

    def _check_yardstick(self, found: Validation) -> None:
        """Refuse figures of other windows, another target or another goal than the study's first trial has."""
        for other in self.study.get_trials(deepcopy=False):
            known = other.user_attrs.get(YARDSTICK)
            if known is not None and other.state.is_finished():
                if not is_same_yardstick(known, found.yardstick):
                    raise TrialFailed(
                        f"its figures cannot be compared with those of trial {origin(other)}: the target's or the "
                        "goal's NLL on the validation windows is another"
                    )
                return

    def _stored(self, trial: Trial) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)


@contextmanager
def _as_interrupt() -> Iterator[None]:
    """SIGTERM ends the trial under way as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
