"""`quail folds`: unlearn several forget sets, one `quail fit` each (MUSE's sustainability and scalability)."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quail_lightning.analysis.figures import save_figures
from quail_lightning.analysis.fold_curves import draw_folds
from quail_lightning.commands.leftovers import say_what_is_left
from quail_lightning.configuration.files import find_config
from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.table import print_results
from quail_lightning.models.checkpoint import weights_digest
from quail_lightning.reference.cached import FOLDER as CACHES
from quail_lightning.run.masking import masked_command
from quail_lightning.run.own_command import own_command
from quail_lightning.run.parent import dependent_process
from quail_lightning.run.results import Estimate, Measure, ResultRow, read_results, write_results
from quail_lightning.run.training_state import last_checkpoint
from quail_lightning.storage.durable import check_writable, write_json
from quail_lightning.storage.locks import hold, lock_in, released_afterwards

Execute = Callable[[Sequence[str]], int]  # arguments of `quail` → exit status
BASELINES = ("target", "retrained")
SAME = 0.005  # relative
OWN_WINDOWS = (
    "NLL forget and delivered forgetting are of each fold's own forget set; the target's NLL on each of them "
    "stands in the fold's results.json."
)


@dataclass(frozen=True)
class FoldPlan:
    """What the folds share.

    Attributes:
        fit: configs of `quail fit`, in order.
        forget: part of the corpus that each fold forgets.
        start_from: ``previous``: a fold starts from the model that the one before left (sustainability);
            ``target``: each starts from the target (scalability). References are the target's in either case.
        options: ``section.key=value`` for every fold.
        out: folder of all folds.
    """

    fit: tuple[str, ...]
    forget: tuple[str, ...]
    start_from: Literal["previous", "target"]
    options: tuple[str, ...]
    out: Path

    @property
    def numbers(self) -> range:
        """Of the folds, from 1."""
        return range(1, len(self.forget) + 1)

    def row_name(self, fold: int) -> str:
        """What results call a fold."""
        return f"fold {fold}: {self.forget[fold - 1]}"

    def folder(self, fold: int) -> Path:
        """Run folder of a fold, counted from 1."""
        return self.out / f"fold_{fold}"

    def model(self, fold: int) -> Path:
        """What the fold leaves; it is written last and whole, so it tells that the fold is finished."""
        return self.folder(fold) / "model"

    def arguments(self, fold: int) -> list[str]:
        """Of `quail`, for one fold."""
        configs = [part for name in self.fit for part in ("--config", name)]
        chained = self.start_from == "previous" and fold > 1
        return [
            "fit",
            *configs,
            *(f"--{option}" for option in self.options),
            f"--data.forget=[{self.forget[fold - 1]}]",
            f"--run_folder={self.folder(fold)}",
            *([f"--model.start={self.model(fold - 1)}"] if chained else []),
        ]


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("--fit", type=list[str], required=True, help="configs of each fold's `quail fit`")
    parser.add_argument("--forget", type=list[str], required=True, help="part of the corpus that a fold forgets")
    parser.add_argument(
        "--start_from", type=Literal["previous", "target"], required=True, help="where a fold starts"
    )
    parser.add_argument("--out", type=str, required=True, help="folder of all folds")
    parser.add_argument("--options", nargs="*", type=str, default=[], help="section.key=value, for every fold")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    wrong = [option for option in arguments.options if "=" not in option or option.startswith("-")]
    if wrong:
        raise InputError("options have the form section.key=value", given=wrong)
    if not arguments.fit:
        raise InputError(
            "there is no config", given="--fit []", allowed="those of `quail fit`, such as [news.yaml]"
        )
    if not arguments.forget:
        raise InputError("there is no fold", allowed="at least one part of the corpus, such as sust/forget_1")
    for name in arguments.fit:
        if name.startswith("-"):  # an option of each fold's command line
            raise InputError("a config's name cannot begin with -", given=name)
        find_config(name)
    plan = FoldPlan(
        tuple(arguments.fit),
        tuple(arguments.forget),
        arguments.start_from,
        tuple(arguments.options),
        Path(arguments.out),
    )
    rows = run_folds(plan, _execute)
    note = _note(plan, rows)
    write_results(plan.out, rows, note)
    print_results(rows, f"{plan.out}: each fold starts from the {plan.start_from}", note)
    save_figures({"folds": draw_folds(rows, [plan.row_name(fold) for fold in plan.numbers])}, plan.out)
    print(f"curves over the folds: {plan.out / 'folds.png'}")
    say_what_is_left([plan.out, Path(CACHES)])


def run_folds(plan: FoldPlan, execute: Execute) -> list[ResultRow]:
    """Run what is not finished yet, in order; one process at a time works in ``plan.out``.

    Args:
        plan: all folds.
        execute: runs one fold.

    Returns:
        The target's and the retrained model's rows, with the metrics that are the same in every fold; then each
        fold's last rows, named after it.

    Raises:
        InputError: another process runs these folds, a finished fold was made otherwise, a folder that is none of
            ours stands in the way, or a fold failed.
    """
    check_writable(plan.out, "--out")
    plan.out.mkdir(parents=True, exist_ok=True)
    hold(lock_in(plan.out), f"the folder of the folds {plan.out}")
    found: list[list[ResultRow]] = []
    for fold in plan.numbers:
        _finish(plan, fold, execute)
        found.append(read_results(plan.folder(fold)))
    rows = _shared_baselines(found)
    for fold, evaluated in zip(plan.numbers, found, strict=True):
        epochs = [row.epoch for row in evaluated if row.epoch is not None]
        last = [row for row in evaluated if row.model == "unlearned" and row.epoch == max(epochs, default=None)]
        rows += [replace(row, model=plan.row_name(fold)) for row in last]
    return rows


def _shared_baselines(found: Sequence[Sequence[ResultRow]]) -> list[ResultRow]:
    """Target and retrained model, without what each fold measures on windows of its own."""
    baselines = [{(row.model, row.precision): row for row in rows if row.model in BASELINES} for rows in found]
    shared = []
    for key, row in baselines[0].items():
        others = [fold[key].metrics if key in fold else {} for fold in baselines[1:]]
        same = {n: m for n, m in row.metrics.items() if all(_is_same(m, other.get(n)) for other in others)}
        if others:
            same.pop("nll_forget", None)  # of windows of its own, even where the figures are alike
        shared.append(replace(row, metrics=same))
    return shared


def _is_same(one: Measure, other: Measure | None) -> bool:
    """Up to what another batch size rounds otherwise."""
    if isinstance(one, Estimate) and isinstance(other, Estimate):
        return one.n == other.n and math.isclose(one.value, other.value, rel_tol=SAME)
    return one == other


def _note(plan: FoldPlan, rows: Sequence[ResultRow]) -> str:
    """What the table leaves out, and why."""
    if len(plan.forget) == 1:
        return ""
    shown = {name for row in rows if row.model in BASELINES for name in row.metrics}
    evaluated = [row for row in read_results(plan.folder(1)) if row.model in BASELINES]
    missing = {name: None for row in evaluated for name in row.metrics if name not in shown and name in labels()}
    if others := [label_of(name).heading for name in missing if name != "nll_forget"]:
        return f"{OWN_WINDOWS} Likewise of the target and the retrained model: {', '.join(others)}."
    return OWN_WINDOWS


def _finish(plan: FoldPlan, fold: int, execute: Execute) -> None:
    folder, made_by = plan.folder(fold), plan.out / f"fold_{fold}.json"
    arguments = plan.arguments(fold)
    chained = plan.start_from == "previous" and fold > 1
    start = weights_digest(str(plan.model(fold - 1))) if chained else {}
    wanted = {"arguments": masked_command(arguments), "start": start}
    if plan.model(fold).is_dir():
        if _mark(made_by) != wanted:
            raise InputError(
                f"fold {fold} in {folder} is finished, but was made with other arguments or from another model "
                f"(or {made_by.name} was damaged)",
                remedy="Name another folder by --out, or remove this fold and those after it",
            )
        print(f"fold {fold}: finished before, {folder}", flush=True)
        return
    resumed: list[str] = []
    if folder.exists():
        if not made_by.is_file():
            raise InputError(f"{folder} exists and is no fold of ours", remedy="Name another folder by --out")
        if last_checkpoint(folder) is not None and _mark(made_by) == wanted:
            print(f"fold {fold}: was interrupted and goes on from its last checkpoint", flush=True)
            resumed = ["--ckpt_path=last"]
        else:
            print(f"fold {fold}: was interrupted and starts anew", flush=True)
            with released_afterwards():  # the fold of a call that was killed may live for a moment
                hold(lock_in(folder), f"the run's folder {folder}")
                shutil.rmtree(folder)
    write_json(made_by, wanted)
    print(f"fold {fold}: quail {' '.join(masked_command([*arguments, *resumed]))}", flush=True)
    if status := execute([*arguments, *resumed]):
        raise InputError(
            f"fold {fold} ended with exit status {status}, see above",
            remedy="Mend it and run the same command again: finished folds are kept, and this one goes on from "
            f"its last checkpoint. To start it anew, remove {folder}",
        )
    if not plan.model(fold).is_dir():
        raise InputError(f"fold {fold} left no model", remedy="Folds need export.enabled and export.folder=model")


def _execute(arguments: Sequence[str]) -> int:
    """A process of its own for each fold: nothing of one is left in the next. It ends when this one does."""
    with dependent_process(own_command(arguments)) as process:

        def end(number: int, frame: object) -> None:
            process.terminate()
            raise SystemExit(128 + signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, end)
        try:
            return process.wait()
        finally:
            process.wait()  # nobody else writes into the fold's folder once this one has ended
            signal.signal(signal.SIGTERM, before)


def _mark(made_by: Path) -> Any:
    """What a fold was made by; None where that is not known."""
    try:
        found = json.loads(made_by.read_text("utf-8"))
        return found | {"arguments": masked_command(found["arguments"])}  # an earlier version kept secrets, too
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
