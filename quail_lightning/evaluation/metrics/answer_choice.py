"""Does the right answer stand out among the wrong ones that a file of questions gives?"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from quail_lightning.errors import InputError
from quail_lightning.evaluation.answer_losses import measure_name
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.answers import asked_sets, losses_of
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.multiple_choice import beyond_chance, chosen_options
from quail_lightning.run.results import Measure, Undefined

ACCURACY, BEYOND = "choice_accuracy", "choice_beyond_chance"
OF = ("forget", "retain")
SHORT = "{} choices beyond chance"


class AnswerChoice:
    """Share of the questions with wrong answers whose right one is the likeliest; fractions.

    An answer's likelihood is that of ``AnswerLikelihood``: the mean over its tokens, as they are trained on. The
    right one is the paraphrase where there is one, in whose form the wrong ones are then written. A tie is not
    right. The accuracy is shown; the verdict takes what lies beyond chance, see ``beyond_chance``.
    """

    name = "answer_choice"
    version = 1
    reads = ("answers",)
    options = ("max_prompts",)
    by_responses = False
    labels = MappingProxyType(
        {
            f"{ACCURACY}_forget": MetricLabel("Accuracy forget", "", "down"),
            f"{BEYOND}_forget": MetricLabel(
                SHORT.format("Forget"), "", "down", SHORT.format("forget"), "knowledge", "files"
            ),
            f"{ACCURACY}_retain": MetricLabel("Accuracy retain", "", "up", table="utility"),
            f"{BEYOND}_retain": MetricLabel(
                SHORT.format("Retain"), "", "up", SHORT.format("retain"), "utility", "files"
            ),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether choices are wanted, and a question has wrong answers."""
        answers = asked.records.answers
        return answers is not None and answers.choices and bool(_with_choices(asked))

    def problems(self, asked: Asked) -> list[str]:
        """None: ``AnswerLikelihood`` reads the same answers, and tells theirs."""
        return []

    def run(self, subject: Subject) -> dict[str, Measure]:
        """By the losses of ``AnswerLikelihood``, which are computed where they are not there yet."""
        for of in _with_choices(subject):
            asked = [row for row in losses_of(subject, of) if row.wrong]
            named = chosen_options(-np.array([row.paraphrase, *row.wrong]) for row in asked)
            subject.log.scores[measure_name(ACCURACY, of)] = tuple(
                {"named": option, "answers": 1 + len(row.wrong)} for option, row in zip(named, asked, strict=True)
            )
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the answers that were named, as they stand in the log."""
        found: dict[str, Measure] = {}
        for of in OF:
            name = measure_name(ACCURACY, of)
            rows = [
                _choice(row, f"{name}, record {number}") for number, row in enumerate(log.scores.get(name, ()))
            ]
            right = [(option == 0, answers) for option, answers in rows]
            if broken := sum(option is None for option, _ in rows):
                why = f"{broken} of {len(rows)} questions have an answer without a finite loss"
                found |= {name: Undefined(why), measure_name(BEYOND, of): Undefined(why)}
            elif right:
                found[name] = bootstrap_mean([float(is_right) for is_right, _ in right])
                found[measure_name(BEYOND, of)] = bootstrap_mean([beyond_chance(*each) for each in right])
        return found


def _with_choices(asked: Asked) -> Sequence[str]:
    """The sets in which a question has wrong answers."""
    return [of for of, rows in asked_sets(asked).items() if of in OF and any(row.wrong for row in rows)]


def _choice(row: Any, place: str) -> tuple[int | None, int]:
    """A row of a log: which answer was named, 0 the right one, None if none; and how many there were.

    Raises:
        InputError: it holds something else.
    """
    named, answers = row.get("named", -1), row.get("answers")
    counted = type(answers) is int and answers > 1
    if not counted or not (named is None or (type(named) is int and 0 <= named < answers)):
        raise InputError(f"{place} names no answer", allowed="answers, at least 2, and named, below it or null")
    return named, answers
