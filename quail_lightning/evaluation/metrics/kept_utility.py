"""What a model is still good for, as a metric; ``evaluation.utility`` measures it."""

from __future__ import annotations

from types import MappingProxyType

from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.run.results import Measure

MMLU_CHANCE = 25.0  # of four answers


class KeptUtility:
    """Gen, Tru, Fac and Flu of the failure paper (section 6.2), and own questions and text."""

    name = "utility"
    version = 1
    reads = ()
    options = ("utility",)
    by_responses = False
    labels = MappingProxyType(
        {
            "utility_general": MetricLabel(
                "Gen MMLU", "× 100", "up", "Gen", "utility", "utility", floor=MMLU_CHANCE
            ),
            "utility_truthful": MetricLabel("Tru MC1", "× 100", "up", "Tru", "utility", "utility"),
            "utility_factual": MetricLabel("Fac TriviaQA", "× 100", "up", "Fac", "utility", "utility"),
            "utility_fluency": MetricLabel("Flu entropy", "bits", "up", "Flu", "utility", "utility"),
            "question_f1": MetricLabel("Questions F1", "× 100", "up", "questions", "utility", "utility"),
            "perplexity": MetricLabel("Perplexity", "", "down", "perplexity", "utility", "utility"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether any of it was asked for."""
        return asked.suite.utility is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of files, hub, harness and prompts."""
        return [] if asked.suite.utility is None else asked.suite.utility.problems(asked.tokenizer, asked.config)

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Whatever was asked for."""
        assert subject.suite.utility is not None
        size = subject.suite.batch_size
        return subject.suite.utility.measures(subject.model, subject.tokenizer, size, subject.step)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Nothing: MUSE's layout has no place for it."""
        return {}
