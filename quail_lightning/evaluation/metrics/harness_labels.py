"""How a figure of a harness task is shown, whose name is a user's."""

from __future__ import annotations

from quail_lightning.evaluation.metrics.protocol import MetricLabel
from quail_lightning.evaluation.utility import TASK

FORGET_TASK = "forget_task_"
CHANCE = {"mmlu": 25, "wmdp": 25, "hellaswag": 25, "arc": 25, "openbookqa": 25, "race": 25, "piqa": 50}
CHANCE |= {"winogrande": 50, "boolq": 50}
"""First word of a task's name → what guessing gives, in percent, of those with so many answers everywhere."""


def harness_label(measure: str) -> MetricLabel | None:
    """Of ``task_<name>`` or ``forget_task_<name>``; None of another measure."""
    if measure.startswith(FORGET_TASK):
        return forget_task_label(measure.removeprefix(FORGET_TASK))
    if measure.startswith(TASK):
        task = measure.removeprefix(TASK)
        return MetricLabel(_heading(task), "× 100", "up", task, "utility", "utility", floor=_chance(task))
    return None


def forget_task_label(task: str) -> MetricLabel:
    """Of a task that asks for what is to be forgotten."""
    return MetricLabel(_heading(task), "× 100", "down", task, "knowledge", floor=_chance(task), guesses=True)


def _chance(task: str) -> float:
    return float(CHANCE.get(task.partition("_")[0], 0))


def _heading(task: str) -> str:
    chance = _chance(task)
    return f"{task} (chance {chance:.0f})" if chance else task
