"""An evaluation's figures for every logger; charts, verdicts, options and answers for TensorBoard.

docs/tensorboard.md names each tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from quail_lightning.callbacks.progress_of_fit import trained_steps
from quail_lightning.data.protocol import data_of
from quail_lightning.evaluation.evidence import Logs, keep_samples
from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.run.masking import masked
from quail_lightning.run.results import Estimate, Measure, ResultRow
from quail_lightning.unlearning.method_name import method_of
from quail_lightning.unlearning.provenance import description

if TYPE_CHECKING:
    from quail_lightning.unlearning import UnlearningModule

BASELINES = ("target", "retrained")
Layout = dict[str, dict[str, list[Any]]]  # category → chart → its kind and its tags
_LOSSES = {"Losses": ("forget", "hinge", "retain"), "NLL": ("forget_nll", "retain_nll")}


def log_start(
    trainer: Trainer, module: UnlearningModule, baselines: Sequence[ResultRow], sixteen_bits: str
) -> None:
    """Say what is run and how it is drawn; log the figures from which the curves begin.

    The point at step 0 is the target's own at every precision: it is what training starts from, and not evaluated
    twice. A run that starts from another model has none.

    Args:
        trainer: its loggers are told.
        module: that is trained.
        baselines: rows of target and retrained model.
        sixteen_bits: name of the precision at which those two are drawn.
    """
    options = hyperparameters(trainer, module)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(options, {})  # for hparams.yaml; the metrics are not known yet
            logger.experiment.add_custom_scalars(layout(baselines))
        else:
            logger.log_hyperparams(_not_yet_told(logger, options))
    starts_at_target = trainer.state.fn == "fit" and module.start in (None, module.target)
    curves = [row for row in baselines if starts_at_target and row.model == "target"]
    _log(trainer, _scalars(curves) | _baseline_scalars(baselines, sixteen_bits), 0)


def log_evaluation(
    trainer: Trainer,
    module: UnlearningModule,
    unlearned: Sequence[ResultRow],
    baselines: Sequence[ResultRow],
    verdicts: Mapping[str, Verdict],
) -> None:
    """Log what the unlearned model's evaluation gave, and the baselines again, which so are drawn as lines.

    Args:
        trainer: its loggers are told.
        module: that was evaluated.
        unlearned: one row for each precision, the 16-bit one first.
        baselines: rows of target and retrained model.
        verdicts: precision → what the figures say.
    """
    step = trained_steps(trainer)
    curves, lines = _scalars(unlearned), _baseline_scalars(baselines, unlearned[0].precision)
    options = hyperparameters(trainer, module)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            # each time: a run that is cut short has them, too, and TensorBoard shows the last value of a metric
            logger.log_hyperparams(options, curves, step)  # which logs the figures as well
            logger.log_metrics(lines, step)
            for precision, found in verdicts.items():
                logger.experiment.add_text(f"verdict/{precision}", found.text, step)
            logger.save()
        else:
            logger.log_metrics(curves | lines, step)
            logger.save()


def log_samples(trainer: Trainer, logs: Logs, folder: Path) -> None:
    """Show in TensorBoard what was said after three forget texts, from files that ``quail clean`` removes.

    Args:
        trainer: knows the step, and whether TensorBoard is asked for.
        logs: what is shown, in this order.
        folder: of the run.
    """
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        keep_samples(folder, logs, trained_steps(trainer))


def layout(baselines: Sequence[ResultRow]) -> Layout:
    """One chart for every metric, all precisions in it; TensorBoard's custom scalars.

    Args:
        baselines: rows of the models that were evaluated before training, which tell metrics and precisions.
    """
    precisions = list(dict.fromkeys(row.precision for row in baselines))
    models = [name for name in BASELINES if any(row.model == name for row in baselines)]
    measured = {name: None for row in baselines for name in row.metrics}
    names = dict.fromkeys([*labels(measured), *measured])
    charts: dict[str, list[Any]] = {}
    for name in (name for name in names if name in measured or _is_derived(name, measured)):
        heading = label_of(name).heading
        title = heading if heading not in charts else f"{heading} ({name})"
        charts[title] = ["Multiline", _patterns(f"eval/{each}/{name}" for each in (*precisions, *models))]
    losses = {
        title: ["Multiline", _patterns(f"train/{name}" for name in names)] for title, names in _LOSSES.items()
    }
    return {"Evaluation": charts, "Training": losses}


def hyperparameters(trainer: Trainer, module: UnlearningModule) -> dict[str, Any]:
    """Plain options that decide a run, flat, for tables of runs: no paths, no texts, no secrets."""
    described, data = description(module), data_of(trainer)
    options: dict[str, Any] = {"method": method_of(module, data)}
    for side, term in described["terms"].items():
        options |= {side: term["class"]} | {
            f"{side}/{key}": value for key, value in term.items() if key != "class"
        }
    for name in ("alpha", "gamma", "weighting"):
        options[name] = getattr(module, name)
    for name in ("schedule", "learning_rate", "weight_decay", "clip_norm", "weight_precision", "adam_states"):
        options[name] = described[name]
    options |= {f"weight/{name}": value for name, value in described["weights"].items()}
    if module.saliency is not None:
        options["saliency/percentile"] = module.saliency.percentile
    for name in ("sam", "dual", "sophia"):
        if (chosen := getattr(module, name)) is not None:
            options |= {f"{name}/{key}": value for key, value in vars(chosen).items()}
    options |= {name: described[name] for name in ("stop", "export_rounding")}
    if module.adapter is not None:
        options |= {f"adapter/{name}": getattr(module.adapter, name) for name in ("rank", "alpha", "base")}
    options |= {"batch_size": data.batch_size, "max_len": data.max_len, "max_epochs": trainer.max_epochs}
    options |= {"precision": trainer.precision, "export_dtype": described["export_dtype"]}
    return masked({name: value for name, value in options.items() if isinstance(value, (bool, int, float, str))})


def _not_yet_told(logger: Logger, options: dict[str, Any]) -> dict[str, Any]:
    """Without what MLflow knows: of a run that goes on it refuses another value, such as more epochs."""
    if not isinstance(logger, MLFlowLogger) or logger.run_id is None:
        return options
    told = logger.experiment.get_run(logger.run_id).data.params
    return {name: value for name, value in options.items() if name not in told}


def _is_derived(name: str, measured: Mapping[str, None]) -> bool:
    """Whether the unlearned model's figures will hold a survival measure that no baseline has."""
    if label_of(name).table != "survival":
        return False
    of = "nll_forget" if name == "kept_forgetting" else name.removeprefix("recovery_").removesuffix("_capped")
    return of in measured


def _patterns(tags: Iterator[str]) -> list[str]:
    """Custom scalars take patterns, which match from a tag's start."""
    return [re.escape(tag).replace(r"\-", "-") + "$" for tag in tags]


def _scalars(rows: Sequence[ResultRow]) -> dict[str, float]:
    return {tag: value for row in rows for tag, value in _named(row.precision, row.metrics)}


def _baseline_scalars(rows: Sequence[ResultRow], sixteen_bits: str) -> dict[str, float]:
    lines = [row for row in rows if row.precision == sixteen_bits]
    return {tag: value for row in lines for tag, value in _named(row.model, row.metrics)}


def _named(group: str, metrics: Mapping[str, Measure]) -> Iterator[tuple[str, float]]:
    return ((f"eval/{group}/{name}", m.value) for name, m in metrics.items() if isinstance(m, Estimate))


def _log(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step)
        logger.save()  # a run that is killed and gone on with does not log them again
