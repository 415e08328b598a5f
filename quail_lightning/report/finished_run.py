"""What a finished run left, read whole before anything is shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quail_lightning.configuration.bounded_yaml import config_text, load_yaml
from quail_lightning.errors import InputError
from quail_lightning.evaluation.precision import UNQUANTIZED
from quail_lightning.run.record import RECORD, read_starts
from quail_lightning.run.results import ResultRow, WholeResults, read_whole
from quail_lightning.storage.locks import is_held, lock_in
from quail_lightning.storage.readable import damaged, read_json
from quail_lightning.storage.vouched import DamagedError, load_vouched

CONFIG, OPTIONS = "config.yaml", "hparams.yaml"
BASELINES = ("target", "retrained")


@dataclass(frozen=True)
class FinishedRun:
    """One run of `quail fit` or `quail test`.

    Attributes:
        folder: as it was named.
        results: its ``results.json``.
        config: its ``config.yaml``, as values.
        config_text: the same, as it stands there.
        starts: its ``run.json``; the last start last.
        settings: how it was evaluated, by its ``scores.json``; empty where there is none.
        provenance: of the model that it saved; empty where it saved none.
        method: its short name; empty where it was not noted.
    """

    folder: Path
    results: WholeResults
    config: Mapping[str, Any]
    config_text: str
    starts: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    method: str

    @property
    def precisions(self) -> list[str]:
        """At which the unlearned model was evaluated, the 16-bit one first."""
        return [row.precision for row in self.results.last if row.model == "unlearned"]

    @property
    def sixteen_bits(self) -> str:
        """Name of the precision that the others are compared with."""
        return next((name for name in self.precisions if name in UNQUANTIZED.values()), self.precisions[0])

    @property
    def target(self) -> str:
        """Folder or name of the target; empty where the run did not note it."""
        model = self.config.get("model")
        return str(
            self.provenance.get("target") or (model.get("target") if isinstance(model, dict) else None) or ""
        )

    @property
    def model_folder(self) -> Path:
        """Where its model was saved, if it was."""
        return _model_folder(self.folder, self.config)

    def row(self, model: str, precision: str) -> ResultRow | None:
        """The last row of a model at a precision; None where it was not evaluated."""
        found = (row for row in self.results.last if (row.model, row.precision) == (model, precision))
        return next(found, None)


def read_runs(folders: Sequence[str]) -> list[FinishedRun]:
    """Read finished runs.

    Raises:
        InputError: naming every folder that is none: no run, one under way, one that failed or was cut short, a
            damaged file, the same run twice.
    """
    runs: dict[Path, FinishedRun] = {}
    problems = []
    for name in folders:
        place = Path(name).resolve()
        if place in runs:
            problems.append(InputError("the same run is named twice", given=name, remedy="Name each run once"))
            continue
        try:
            runs[place] = read_run(Path(name))
        except InputError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError("; ".join(str(problem).rstrip(".") for problem in problems))
    return list(runs.values())


def read_run(folder: Path) -> FinishedRun:
    """Read one finished run.

    Raises:
        InputError: see ``read_runs``.
    """
    _check_folder(folder)
    starts = read_starts(folder)
    if is_held(lock_in(folder)):
        raise InputError(f"the run {folder} is still running", remedy="Wait until it has ended")
    config, text = _config(folder / CONFIG)
    provenance = _provenance(folder, config)
    _check_finished(folder, starts[-1], provenance)
    results = read_whole(folder)
    if not any(row.model == "unlearned" for row in results.last):
        raise damaged(folder / "results.json", "it holds no row of the unlearned model")
    return FinishedRun(folder, results, config, text, starts, _settings(folder), provenance, _method(folder))


def _check_folder(folder: Path) -> None:
    remedy = "Name the folder of a run of `quail fit` or `quail test`, such as logs/quickstart/latest"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"the run {folder} {what}", allowed="the folder of a finished run", remedy=remedy)
    if (folder / RECORD).exists():
        return
    below = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    if below:
        shown = ", ".join(below[:6]) + (", ..." if len(below) > 6 else "")
        remedy = f"Name one of the runs in it: {shown}"
    raise InputError(f"{folder} is no run: it has no {RECORD}", remedy=remedy)


def _check_finished(folder: Path, start: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """A run says itself that it finished; of one that says nothing, the model that is saved last does."""
    outcome = start.get("outcome")
    saved = "finished_epochs" in provenance and "cut_short" not in provenance
    if outcome == "finished" or (outcome is None and saved):
        if not (folder / "results.json").exists():
            raise InputError(
                f"the run {folder} has finished, but evaluated nothing: it has no results.json",
                allowed="runs of `quail fit` and `quail test`",
            )
        return
    how = {"failed": "failed", "interrupted": "was interrupted"}.get(str(outcome), "was killed, or has not ended")
    raise InputError(
        f"the run {folder} {how}: figures of a training that did not end are no result",
        remedy="Let it go on by --ckpt_path last where it wrote checkpoints, or run it again",
    )


def _config(path: Path) -> tuple[Mapping[str, Any], str]:
    try:
        text = config_text(path)
        found = load_yaml(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", remedy="Copy the run again") from error
    except yaml.YAMLError as error:
        raise damaged(path, f"it is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise damaged(path, "it holds no options")
    return found, text


def _model_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    export = config.get("export")
    name = export.get("folder") if isinstance(export, dict) else None
    return folder / str(name or "model")


def _provenance(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    path = _model_folder(folder, config) / "provenance.json"
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise damaged(path, "it holds no JSON object")
    return found


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "scores.json"
    try:
        found = load_vouched(path).get("settings")
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise InputError(f"{folder}: {error}", remedy="Copy the run again, or evaluate its model again") from error
    if not isinstance(found, dict):
        raise damaged(path, "it holds no settings")
    return found


def _method(folder: Path) -> str:
    """What TensorBoard's table of runs calls the method; other loggers do not note it."""
    path = folder / OPTIONS
    if not path.is_file():
        return ""
    found = _config(path)[0].get("method")
    return found if isinstance(found, str) else ""
