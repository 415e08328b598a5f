"""M2 and M4, knowledge memorization: can the model still answer questions about a text?"""

from __future__ import annotations

from collections.abc import Sequence

from quail_lightning.data.questions import QuestionSet
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.knowmem import STOPS, question_prompts, truncate_answer
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.rouge import rouge_measure
from quail_lightning.run.results import Measure


class Questions:
    """ROUGE-L F1 × 100 of answers after ten worked pairs (MUSE).

    Args:
        name: field of ``EvaluationRecords`` that holds the questions.
        measure: name of what is measured.
        label: how it is shown.
    """

    version = 1
    options = ("knowmem_new_tokens", "max_prompts", "prompt_end")
    by_responses = True

    def __init__(self, name: str, measure: str, label: MetricLabel) -> None:
        self.name, self.reads, self.labels = name, (name,), {measure: label}
        self._measure = measure

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are questions."""
        return getattr(asked.records, self.name) is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of the prompts' lengths."""
        prompts = asked.suite.ended(question_prompts(self._asked(asked)))
        return asked.length_problems(self._measure, prompts, asked.suite.knowmem_new_tokens)

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Generate, cut and score."""
        questions, suite = self._asked(subject), subject.suite

        def ask() -> Sequence[Response]:
            prompts = suite.ended(question_prompts(questions))
            given = subject.complete(self._measure, prompts, suite.knowmem_new_tokens, stops=STOPS)
            truths = [pair.answer for pair in questions.questions]
            return list(map(Response, truths, map(truncate_answer, given), prompts))

        subject.responses(self._measure, ask)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the answers as they stand in the log."""
        rows = log.responses.get(self._measure, ())
        return {self._measure: rouge_measure(rows)} if rows else {}

    def _asked(self, asked: Asked) -> QuestionSet:
        found: QuestionSet = getattr(asked.records, self.name)
        return QuestionSet(found.questions[: asked.suite.max_prompts], found.examples)
