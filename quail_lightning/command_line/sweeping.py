"""`quail sweep`: search the options of `quail fit` for the best of forgetting and utility (docs/sweep.md)."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quail_lightning.analysis.figures import save_figures
from quail_lightning.command_line.argument_parser import SuggestingParser
from quail_lightning.command_line.lightning_cli import QuailCLI
from quail_lightning.command_line.own_options import divided
from quail_lightning.commands.leftovers import say_what_is_left
from quail_lightning.configuration.files import find_config
from quail_lightning.errors import InputError, RunError
from quail_lightning.reference.cached import FOLDER as CACHES
from quail_lightning.run.folder import missing_folders, remove_started
from quail_lightning.run.masking import masked_yaml
from quail_lightning.storage.durable import check_writable, replace_text
from quail_lightning.storage.privacy import private_folder
from quail_lightning.storage.vouched import digest
from quail_lightning.sweep.front import draw_front, winner
from quail_lightning.sweep.launcher import Jobs, check_ended, check_submitit, follow, read_jobs, submit
from quail_lightning.sweep.space import Value, check_apart_from, option, read_space
from quail_lightning.sweep.study import check_optuna, default_storage, open_storage, open_study, origin, slots
from quail_lightning.sweep.table import LiveTable, write_csv
from quail_lightning.sweep.trial import SweepPlan
from quail_lightning.sweep.worker import Worker

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

OWN = ("--space", "--trials", "--storage", "--study", "--out", "--launcher", "--workers", "--jobs")
JOBS = "jobs"  # folder of what the cluster's jobs wrote
Launcher = Literal["submitit"]
MOSTLY = 0.5  # of the target's gap: whoever leaves more has not forgotten
OF_THE_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "logger", "enable_progress_bar")
"""Options of the Trainer in which two workers of a sweep may differ."""


class FitOptions(QuailCLI):
    """The options of `quail fit`, parsed and made objects of as it does, without a run."""

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__(["fit", *arguments], records=False)

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def before_instantiate_classes(self) -> None:
        """Nothing runs."""

    def instantiate_classes(self) -> None:
        """By ``check`` alone."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs."""

    def check(self, arguments: Sequence[str]) -> None:
        """Parse options and make what they describe.

        Raises:
            InputError: some are refused, in the words of `quail fit`.
        """
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                self.parser.instantiate_classes(self.parser.parse_args(["fit", *arguments]))
        except SystemExit:
            raise InputError(said.getvalue().removeprefix("error: ").strip()) from None

    def whole_config(self, arguments: Sequence[str]) -> str:
        """The whole config that options amount to, as YAML."""
        parsed = self.parser.parse_args(["fit", *arguments])
        return str(self._parser("fit").dump(parsed.fit, skip_none=False))

    def sections(self, arguments: Sequence[str]) -> dict[str, str]:
        """Digest of each section that decides the figures of a run."""
        parsed = self.parser.parse_args(["fit", *arguments])
        content = json.loads(self._parser("fit").dump(parsed.fit, skip_none=False, format="json"))
        content["trainer"] = {key: v for key, v in content["trainer"].items() if key not in OF_THE_MACHINE}
        return {name: digest(section) for name, section in content.items()}


@dataclass(frozen=True)
class Asked:
    """The verb's own options.

    Attributes:
        space: file of the space.
        trials: how many in all, those of other workers and of earlier commands included.
        storage: URL; None for a SQLite file in ``out``.
        study: name of the study; None for one made of the names of config and space.
        out: folder of the sweep; None for one below ``logs``.
        launcher: of workers elsewhere; None: this process is one.
        workers: jobs that the launcher submits.
        jobs: file of what each of them gets.
    """

    space: str
    trials: int
    storage: str | None
    study: str | None
    out: str | None
    launcher: Launcher | None
    workers: int
    jobs: str


def run_sweep(arguments: Sequence[str]) -> None:
    """Carry the verb out."""
    own, fit = divided(arguments, OWN, ("-h", "--help"))
    asked = _asked(own)
    check_optuna()
    if asked.trials < 1:
        raise InputError("--trials must be at least 1", given=asked.trials)
    jobs = _jobs(asked)
    path = find_config(asked.space)
    space = read_space(path)
    check_apart_from(space, fit)
    study = asked.study or f"{_stem(fit)}-{path.stem}"
    out = Path(asked.out or f"logs/sweeps/{study}")
    trials = asked.trials
    if space.sampler == "grid" and trials > (points := len(space.grid())):
        print(f"The grid of {path} ends after {points} trials.", flush=True)
        trials = points
    plan = SweepPlan(tuple(fit), space, trials, out)
    options = _checked(plan, path)
    if jobs is not None:
        check_submitit(jobs)
    storage = asked.storage or default_storage(out)
    opened = _opened(plan, study, storage, options)
    print(f"study {study} in {out}: {trials} trials, {space.sampler}", flush=True)
    worker = {"--space": asked.space, "--trials": str(asked.trials), "--storage": storage}
    command = ["sweep", *fit, *chain(*worker.items()), "--study", study, "--out", str(out)]
    with LiveTable(opened, space, trials, study) as table:
        if jobs is None:
            Worker(opened, plan, table).work()
        else:
            submitted = submit(command, jobs, asked.workers, private_folder(out / JOBS, out / JOBS))
            table.say("\n".join(f"job {job.job_id}: {job.paths.stdout}" for job in submitted))
            follow(submitted, table.look)
    table.finish()
    if jobs is not None:
        ended = sum(trial.state.is_finished() for trial in slots(opened.get_trials()))
        check_ended(submitted, trials - ended)
        submitted.clear()  # what submitit does with a job that is left when the interpreter ends fails there
    _conclude(plan, slots(opened.get_trials()), options)


def _jobs(asked: Asked) -> Jobs | None:
    """What each worker's job gets; None where this process is the worker.

    Raises:
        InputError: no worker, or a file that cannot be read.
    """
    if asked.launcher is None:
        return None
    if asked.workers < 1:
        raise InputError("--workers must be at least 1", given=asked.workers)
    return read_jobs(find_config(asked.jobs))


def _opened(plan: SweepPlan, study: str, storage: str, options: FitOptions) -> Study:
    """The study; no folder is left where it is refused."""
    check_writable(plan.out, "--out")
    made = missing_folders(plan.out)
    plan.out.mkdir(parents=True, exist_ok=True)
    first = plan.options({key: given.samples()[0] for key, given in plan.space.options.items()})
    setting = {"the space": plan.space.as_json()} | {
        f"the section {name}": found for name, found in options.sections(first).items()
    }
    try:
        return open_study(open_storage(storage, plan.out), study, plan.space, setting, plan.out)
    except InputError:
        remove_started(made)
        raise


def _asked(own: Sequence[str]) -> Asked:
    parser = SuggestingParser(
        prog="quail sweep",
        usage="quail sweep --config C --space S --trials N [--storage URL] [--study NAME] [--out DIR] "
        "[--launcher submitit --workers N [--jobs FILE]] [--section.key value ...]",
        description="Search the options of `quail fit`: one run a trial, chosen by validation figures. --config "
        "and every other option are `quail fit`'s, for all trials (quail fit --help).",
    )
    parser.verb = "sweep"
    parser.add_argument("--space", type=str, required=True, help="file of the space, such as sweep/quail.yaml")
    parser.add_argument("--trials", type=int, required=True, help="trials in all, of all workers")
    parser.add_argument("--storage", type=str | None, default=None, help="URL; default: DIR/study.db")
    parser.add_argument("--study", type=str | None, default=None, help="its name; default: CONFIG-SPACE")
    parser.add_argument("--out", type=str | None, default=None, help="folder; default: logs/sweeps/STUDY")
    parser.add_argument(
        "--launcher",
        type=Launcher | None,
        default=None,
        help="submit workers as jobs of SLURM and show their trials; default: this process is a worker",
    )
    parser.add_argument("--workers", type=int, default=1, help="jobs that the launcher submits")
    parser.add_argument(
        "--jobs", type=str, default="launcher/slurm.yaml", help="file of what each job gets: submitit's parameters"
    )
    return Asked(**vars(parser.parse_args(list(own))))


def _stem(fit: Sequence[str]) -> str:
    """The first config's name."""
    for argument, following in zip(fit, [*fit[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            return Path(value if equals else following).stem
    raise InputError("a sweep needs the config of its runs", remedy="Name one: --config quickstart.yaml")


def _checked(plan: SweepPlan, path: Path) -> FitOptions:
    """See that `quail fit` takes every value of the space, and the options that all trials share.

    Raises:
        InputError: naming the option, the value and what `quail fit` says.
    """
    first: Mapping[str, Value] = {key: given.samples()[0] for key, given in plan.space.options.items()}
    # refuses what is wrong without the space, in its own words
    options = FitOptions(plan.options({}))
    options.check(plan.options({}))
    for key, given in plan.space.options.items():
        for value in given.samples():
            try:
                options.check(plan.arguments(0, {**first, key: value})[1:])
            except InputError as error:
                raise InputError(f"{option(key, value)} of the space {path} is refused: {error}") from None
    return options


def _conclude(plan: SweepPlan, trials: Sequence[FrozenTrial], options: FitOptions) -> None:
    """Write table, figure and the winner's config."""
    write_csv(plan.out / "trials.csv", trials, plan.space, plan.folder)
    say_what_is_left([plan.out, Path(CACHES)])
    best = winner(trials)
    if best is None:
        raise RunError(
            f"no trial was finished; why stands in {plan.out / 'trials.csv'} and in the logs beside it",
            remedy="Mend it, and name another study by --study and --out: what has failed is not tried again",
        )
    save_figures({"pareto": draw_front(trials, plan.space.utility_floor)}, plan.out)
    path = plan.out / "winner.yaml"
    replace_text(path, _winner_config(plan, best, options), private=True)
    print(f"trials: {plan.out / 'trials.csv'}; Pareto front: {plan.out / 'pareto.png'}")
    chosen = " ".join(f"{key}={best.params[key]}" for key in plan.space.options)
    known = best.user_attrs["target_gap"]
    print(
        f"The winner is trial {origin(best)} ({chosen}): forgetting gap {best.values[0]:.3f} nats a token where "
        f"the target has {known:.3f}, utility kept {best.values[1]:.1%}. Its run: {plan.folder(origin(best))}"
    )
    if best.values[0] > MOSTLY * known:
        print("That is hardly less than the target's own gap: no trial forgot much. Try a wider space.")
    print(f"To run it again: quail fit --config {path}", flush=True)


def _winner_config(plan: SweepPlan, best: FrozenTrial, options: FitOptions) -> str:
    gap, kept = best.values
    content = masked_yaml(options.whole_config(plan.options(best.params)))
    return (
        f"# The winner of a sweep over {', '.join(plan.space.options)}: trial {origin(best)}.\n"
        f"# On validation windows, at the worst of best.precisions, epoch {best.user_attrs['epoch']}: "
        f"forgetting gap {gap:.4g} nats a token, utility kept {kept:.1%}.\n"
        f"#   quail fit --config {plan.out / 'winner.yaml'}\n{content}"
    )
