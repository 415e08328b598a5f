"""What a model knew of the world before it was taught anything: is that still there?"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from quail_lightning.data.multiple_choice import WRONG, ChoiceQuestion, read_choices
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.multiple_choice import choice_prompt, choice_scores, choice_texts, chosen_options
from quail_lightning.inference.encoding import encode
from quail_lightning.run.results import Measure, Undefined

MEASURE = "general_questions"
CHANCE = 100 / (1 + WRONG)
NO_CHOICE = ""  # in a log: a score was not finite


class GeneralQuestions:
    """Accuracy × 100: how often the right one of four answers is the likeliest."""

    name = MEASURE
    version = 1
    reads = ()
    options = ("general_questions",)
    by_responses = False
    labels = MappingProxyType(
        {
            MEASURE: MetricLabel(
                f"General questions (chance {CHANCE:.0f})",
                "× 100",
                "up",
                "general questions beyond chance",
                "utility",
                "utility",
                floor=CHANCE,
            )
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether a file is named."""
        return asked.suite.general_questions is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of the file, and questions that do not fit the positions together with an answer."""
        try:
            texts = [text for question in self._questions(asked) for text in choice_texts(question)]
        except InputError as problem:
            return [f"{MEASURE}: {problem}"]
        longest, limit = max(map(len, encode(asked.tokenizer, texts))), asked.positions
        if limit is None or longest <= limit:
            return []
        return [
            f"{MEASURE}: the longest question with an answer has {longest} tokens, and the model has {limit} "
            "positions."
        ]

    def run(self, subject: Subject) -> dict[str, Measure]:
        """One forward pass over every question with each of its answers."""

        def ask() -> Sequence[Response]:
            questions, size = self._questions(subject), subject.suite.batch_size
            scores = choice_scores(subject.model, subject.tokenizer, questions, size, subject.step(MEASURE))
            rows = zip(questions, chosen_options(scores), strict=True)
            return [Response(each.answer, _named(each, option), choice_prompt(each)) for each, option in rows]

        subject.responses(MEASURE, ask)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the answers that were chosen, as they stand in the log."""
        rows = log.responses.get(MEASURE, ())
        if not rows:
            return {}
        if broken := sum(row.response == NO_CHOICE for row in rows):
            return {MEASURE: Undefined(f"{broken} of {len(rows)} questions have an answer without a finite score")}
        return {MEASURE: bootstrap_mean([100.0 * (row.response == row.truth) for row in rows])}

    def _questions(self, asked: Asked) -> Sequence[ChoiceQuestion]:
        assert asked.suite.general_questions is not None
        return read_choices(asked.suite.general_questions)


def _named(question: ChoiceQuestion, option: int | None) -> str:
    return NO_CHOICE if option is None else question.options[option]
