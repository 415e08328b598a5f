"""The study that workers share: its storage, its slots, and what becomes of a dead worker's trial."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.errors import InputError
from quail_lightning.storage.locks import hold, lock_in, released_afterwards
from quail_lightning.sweep.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

HEARTBEAT, GRACE = 15, 60  # seconds between two signs of life, and without one until a worker counts as dead
MOST_TRIES = 3  # of a trial whose workers die: it may be what kills them
SWEEP = "sweep"  # the study's attribute that says what it is a sweep of
ORIGIN, TRIES, SURPLUS, REASON = "origin", "tries", "surplus", "reason"  # attributes of a trial


def check_optuna() -> None:
    """See that Optuna is there.

    Raises:
        InputError: it is not, or too old.
    """
    try:
        from optuna.storages import RetryHeartbeatStaleTrialCallback  # noqa: F401  # new in 4.9
    except ImportError as error:
        raise InputError(
            f"a sweep needs Optuna from 4.9 on ({error})", remedy="Run: pip install 'quail-lightning[sweep]'"
        ) from error


def default_storage(out: Path) -> str:
    """URL of the SQLite file in the sweep's folder."""
    return f"sqlite:///{out / 'study.db'}"


def shown_url(url: str) -> str:
    """A storage's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def open_storage(url: str, out: Path, heartbeat: int = HEARTBEAT, grace: int = GRACE) -> RDBStorage:
    """Open, or make, the tables of a storage.

    Args:
        url: SQLAlchemy's, such as ``postgresql+psycopg://user:password@host/name``.
        out: the sweep's folder, which exists; workers that start at once there take turns.
        heartbeat: seconds between two signs of life.
        grace: seconds without one until a worker counts as dead.

    Raises:
        InputError: it cannot be read, or its driver is missing.
    """
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # seconds to wait for a lock
    try:
        with released_afterwards(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
            hold(lock_in(out), f"the folder of the sweep {out}", wait=True)
            return RDBStorage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=take_up,
            )
    # RuntimeError: tables of another version of Optuna; ValueError: an URL that means nothing
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        cause = str(error.__cause__ or error).strip().splitlines()[:1]
        raise InputError(
            f"the storage cannot be read: {' '.join(cause)}",
            given=shown_url(url),
            allowed="an URL of Optuna's relational storage: sqlite:///FILE, postgresql://..., mysql://...",
        ) from None


def open_study(storage: RDBStorage, name: str, space: Space, setting: Mapping[str, Any], out: Path) -> Study:
    """Open the study of this name, or make it.

    Args:
        storage: that holds it.
        name: of the study.
        space: decides the sampler.
        setting: what this is a sweep of, fit for JSON; another worker's must be the same.
        out: the sweep's folder; where the study is new, it holds no trials yet.

    Raises:
        InputError: the study is another sweep's, or the folder another study's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # ours says what happens
    if name not in optuna.get_all_study_names(storage) and any(out.glob("trial-*/")):
        raise InputError(
            f"{out} holds the trials of another study",
            given=name,
            remedy="Name another folder by --out, or that study by --study and --storage",
        )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize", "maximize"],  # forgetting gap, kept share of the utility
        load_if_exists=True,
        sampler=_sampler(space),
    )
    known = study.user_attrs.get(SWEEP)
    if known is None and not study.trials:
        study.set_user_attr(SWEEP, dict(setting))
    elif known != setting:
        known = known if isinstance(known, dict) else {}
        differing = [key for key in setting if known.get(key) != setting[key]]
        raise InputError(
            f"the study {name} is of another sweep: it differs in {', '.join(differing)}",
            remedy="Start a worker by the same command, or name another study by --study and another --out",
        )
    return study


def slots(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The last attempt of each trial that counts, by the numbers of their first attempts."""
    found = {origin(trial): trial for trial in trials if not trial.user_attrs.get(SURPLUS)}
    return [found[number] for number in sorted(found)]


def origin(trial: FrozenTrial) -> int:
    """The number of a trial's first attempt, by which it is called."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def rank(trials: Sequence[FrozenTrial], number: int) -> int:
    """How many trials that count began before the one of this (first) number.

    The storage gives numbers one after the other: workers that begin at the same moment agree on who came first.
    """
    return sum(
        trial.number < number and ORIGIN not in trial.user_attrs and not trial.user_attrs.get(SURPLUS)
        for trial in trials
    )


def take_up(study: Study, trial: FrozenTrial, *, counts: bool = True) -> None:
    """Let a trial that was cut short be run again, with the values that it had; called once for each.

    Args:
        study: that holds it.
        trial: which has failed.
        counts: against ``MOST_TRIES``: its worker died without a word, and was not told to end.
    """
    tries = trial.user_attrs.get(TRIES, 1)
    if counts and tries >= MOST_TRIES:
        return
    attributes = {ORIGIN: origin(trial), TRIES: tries + counts}
    study.enqueue_trial(trial.params, user_attrs=attributes)


def _sampler(space: Space) -> BaseSampler:
    import optuna

    if space.sampler == "random":
        return optuna.samplers.RandomSampler()
    if space.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: workers keep away from what others are just trying
            return optuna.samplers.TPESampler(multivariate=True, constant_liar=True)
    return _in_order(space.grid())


def _in_order(points: Sequence[Mapping[str, Any]]) -> BaseSampler:
    """One point a trial, in order.

    Optuna's own grid sampler draws among the points that nobody has, so that two workers may take the same one.
    """
    from optuna.samplers import BaseSampler

    class InOrder(BaseSampler):
        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
            place = rank(study.get_trials(deepcopy=False), origin(trial))
            return points[place % len(points)][param_name]

    return InOrder()
