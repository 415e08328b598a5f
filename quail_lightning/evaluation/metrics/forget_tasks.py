"""What is to be forgotten, asked by tasks of the LM Evaluation Harness, such as WMDP's."""

from __future__ import annotations

from types import MappingProxyType

from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.harness import harness_accuracy, task_problems
from quail_lightning.evaluation.metrics.harness_labels import FORGET_TASK, forget_task_label
from quail_lightning.evaluation.metrics.protocol import Asked, Subject
from quail_lightning.run.results import Measure

WMDP = ("wmdp", "wmdp_bio", "wmdp_chem", "wmdp_cyber")


class ForgetTasks:
    """Accuracy × 100 of each task, with what guessing gives in the place of a retrained model.

    WMDP (Li et al. 2024, "The WMDP Benchmark"): ``wmdp_bio``, ``wmdp_chem``, ``wmdp_cyber``, four answers each.
    """

    name = "forget_tasks"
    version = 1
    reads = ()
    options = ("forget_tasks",)
    by_responses = False
    labels = MappingProxyType({f"{FORGET_TASK}{task}": forget_task_label(task) for task in WMDP})

    def is_asked(self, asked: Asked) -> bool:
        """Whether any task is named."""
        return asked.suite.forget_tasks is not None and bool(asked.suite.forget_tasks.tasks)

    def problems(self, asked: Asked) -> list[str]:
        """Of the harness, and of each task's name, figure and data."""
        assert asked.suite.forget_tasks is not None
        return [
            f"{self.name}: {problem}"
            for problem in task_problems(asked.suite.forget_tasks.asked(), asked.positions)
        ]

    def run(self, subject: Subject) -> dict[str, Measure]:
        """A task after the other."""
        tasks = subject.suite.forget_tasks
        assert tasks is not None
        return {
            f"{FORGET_TASK}{task.name}": harness_accuracy(
                subject.model, subject.tokenizer, task, subject.suite.batch_size, tasks.limit
            )
            for task in tasks.asked()
        }

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Nothing: a log holds no answers of the harness."""
        return {}
