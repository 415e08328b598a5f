"""Every metric, in the order of tables; a new one is a file here and its line in ``METRICS``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quail_lightning.evaluation.answer_losses import LOG_RATIO
from quail_lightning.evaluation.metrics.answer_choice import AnswerChoice
from quail_lightning.evaluation.metrics.answers import AnswerLikelihood, AnswerRecall
from quail_lightning.evaluation.metrics.classes import Classes
from quail_lightning.evaluation.metrics.forget_tasks import ForgetTasks
from quail_lightning.evaluation.metrics.general_questions import GeneralQuestions
from quail_lightning.evaluation.metrics.harness_labels import harness_label
from quail_lightning.evaluation.metrics.kept_utility import KeptUtility
from quail_lightning.evaluation.metrics.membership import AUCS, Membership
from quail_lightning.evaluation.metrics.memorization import Memorization
from quail_lightning.evaluation.metrics.probes import Probes
from quail_lightning.evaluation.metrics.protocol import Asked, Metric, MetricLabel, Subject, SuiteProgress
from quail_lightning.evaluation.metrics.questions import Questions
from quail_lightning.evaluation.metrics.verbatim import Verbatim
from quail_lightning.evaluation.metrics.windows import WindowNLL
from quail_lightning.evaluation.tofu import QUALITY, UTILITY

MEMBERSHIP_AUCS = ("membership_auc", *AUCS)
"""Measures of membership attacks."""

__all__ = [
    "MEMBERSHIP_AUCS",
    "METRICS",
    "Asked",
    "Metric",
    "MetricLabel",
    "Subject",
    "SuiteProgress",
    "label_of",
    "labels",
]

METRICS: list[Metric] = [
    Verbatim(),
    Questions(
        "forget_questions", "knowmem_forget", MetricLabel("Forget Q&A", "× 100", "down", "forget Q&A", "knowledge")
    ),
    Membership(),
    Questions(
        "retain_questions", "knowmem_retain", MetricLabel("Retain Q&A", "× 100", "up", "retain Q&A", "utility")
    ),
    Probes(),
    ForgetTasks(),
    AnswerRecall(),
    AnswerLikelihood(),
    AnswerChoice(),
    Memorization(),
    Classes("forget"),
    Classes("retain"),
    GeneralQuestions(),
    KeptUtility(),
    WindowNLL(),
]


def labels(also: Iterable[str] = ()) -> dict[str, MetricLabel]:
    """Measure → how it is shown, in the order of tables: what the metrics give, and what is derived from that.

    Args:
        also: names of measures at hand, for those whose name is a user's: tasks of the harness.
    """
    of_user = {name: label for name in also if (label := harness_label(name)) is not None}
    measured = {name: label for metric in METRICS for name, label in metric.labels.items()}
    measured = {**measured, **{name: label for name, label in of_user.items() if name not in measured}}
    return {name: label for measure in measured.items() for name, label in _with_derived(*measure)} | {
        **_recoveries(measured, "Recovery:", ""),
        **_recoveries(measured, "Came back:", "_capped"),
        **{
            f"recovery_{name}_capped": MetricLabel(
                f"Came back: {measured[name].short}",
                "",
                "zero",
                table="survival" if name == "membership_auc" else "files",
            )
            for name in MEMBERSHIP_AUCS
        },
        "kept_forgetting": MetricLabel("Kept", "", "one", table="survival"),
        "delivered_forgetting": MetricLabel("Delivered forget", "", "one", table="files"),
        "delivered_forgetting_capped": MetricLabel("Delivered capped", "", "one", table="files"),
        "kept_by_export": MetricLabel("Kept by export", "", "one", table="files"),
        "delivered_retain": MetricLabel("Delivered retain", "", "none", table="files"),
    }


def label_of(measure: str) -> MetricLabel:
    """How a measure is shown; plainly by its own name where no metric of this process gives it."""
    of_user = measure.removeprefix("recovery_").removesuffix("_capped")
    return labels([of_user]).get(measure, MetricLabel(measure, "", "none"))


def _with_derived(name: str, label: MetricLabel) -> Iterator[tuple[str, MetricLabel]]:
    if name == "membership_auc":
        yield "privleak", MetricLabel("Membership leak", "× 100", "zero")
    yield name, label
    if name == LOG_RATIO:
        yield QUALITY, MetricLabel("Forget quality", "p-value", "up", "forget quality")
        yield UTILITY, MetricLabel("Model utility", "", "up", "model utility", "utility", "utility")


def _recoveries(measured: dict[str, MetricLabel], what: str, kind: str) -> dict[str, MetricLabel]:
    return {
        f"recovery_{name}{kind}": MetricLabel(f"{what} {label.short}", "", "zero", table="survival")
        for name, label in measured.items()
        if label.pairs
    }
