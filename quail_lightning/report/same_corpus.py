"""Runs stand beside one another only where the same was asked of the same models on the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quail_lightning.errors import InputError
from quail_lightning.report.finished_run import FinishedRun

OF_THE_METHOD = ("batch_size", "tokenizer", "schedule", "seed", "refusals", "alternates", "question_part")
"""Options of the data that decide how is trained, and not on what is evaluated."""
WITHOUT_EFFECT = ("batch_size",)  # on the suite's figures
REMEDY = (
    "Name runs of one corpus, target, retrained model and evaluation section; "
    "`quail test --model.start RUN/model` evaluates a model again"
)


def check_same_corpus(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose figures are of different questions.

    Text, target and records are compared by their digests where all runs noted them, by their names otherwise.

    Raises:
        InputError: naming each setting that differs, and its values.
    """
    if len(runs) < 2:
        return
    if without := [str(run.folder) for run in runs if not run.settings]:
        raise InputError(
            "what was evaluated cannot be told without the run's scores.json",
            given=", ".join(without),
            remedy="Copy the run's whole folder",
        )
    told = [_identity(run) for run in runs]
    for kind in ("target_sha256", "texts_sha256"):
        if all(run.provenance.get(kind) for run in runs):
            for identity, run in zip(told, runs, strict=True):
                identity[kind] = run.provenance[kind]
                if kind == "target_sha256":
                    del identity["model.target"]  # the same weights may have moved
    differing = [name for name in dict.fromkeys(key for each in told for key in each) if _differs(name, told)]
    if not differing:
        return
    said = []
    for name in differing:
        values = [f"{_short(each.get(name))} in {run.folder}" for each, run in zip(told, runs, strict=True)]
        said.append(f"{name} is {', '.join(values)}")
    raise InputError(
        "the runs are of different corpora, or were evaluated otherwise, so their figures cannot be compared",
        given="; ".join(said),
        remedy=REMEDY,
    )


def notes_on(runs: Sequence[FinishedRun]) -> list[str]:
    """What else differs, and may move figures a little: one sentence each."""
    found = []
    for name in ("calibration", "arithmetic"):
        values = {str(run.folder): str(run.settings.get(name)) for run in runs}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{folder}: {value}" for folder, value in values.items())
            found.append(f"The {name} differs: {listed}.")
    return found


def _identity(run: FinishedRun) -> dict[str, Any]:
    """Setting → value, as the run's config and its evaluation noted them."""
    data = run.config.get("data")
    data = data if isinstance(data, Mapping) else {}
    options = data.get("init_args")
    options = options if isinstance(options, Mapping) else {}
    model = run.config.get("model")
    suite = run.settings.get("suite")
    found = {"data": data.get("class_path")}
    found |= {f"data.{name}": value for name, value in options.items() if name not in OF_THE_METHOD}
    found["model.target"] = model.get("target") if isinstance(model, Mapping) else None
    found["evaluation.retrained"] = run.settings.get("retrained")
    found["evaluation.max_windows"] = run.settings.get("max_windows")
    if isinstance(suite, Mapping):
        found |= {f"evaluation.suite.{name}": value for name, value in suite.items() if name not in WITHOUT_EFFECT}
    return found | {"records_sha256": run.settings.get("records_sha256")}


def _differs(name: str, told: Sequence[Mapping[str, Any]]) -> bool:
    return any(each.get(name) != told[0].get(name) for each in told)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
