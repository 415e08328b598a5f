"""What a model answers to sets of questions, and how likely it finds right and wrong answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quail_lightning.data.answers import AnswerWindows
from quail_lightning.data.questions import AnsweredQuestion, Question
from quail_lightning.errors import InputError
from quail_lightning.evaluation.answer_losses import (
    LOG_RATIO,
    PROBABILITY,
    ROUGE,
    SETS,
    TRUTH_RATIO,
    WITH_OPTIONS,
    AnswerLosses,
    measure_name,
    set_measures,
)
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.functional.masking import token_numbers
from quail_lightning.inference.likelihood import row_log_likelihoods
from quail_lightning.run.results import Measure

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

SHOWN = {"forget": "forget", "retain": "retain", "real_authors": "real authors", "world_facts": "world facts"}


def _labels(kind: str, what: str) -> Mapping[str, MetricLabel]:
    """The forget set's figure is knowledge, the retain set's utility; the other two bear on model utility."""
    found = {}
    for of, shown in SHOWN.items():
        forget = of == "forget"
        role = {"forget": "knowledge", "retain": "utility"}.get(of)
        better = "down" if forget else "up"
        table = "known" if forget else "utility"
        found[measure_name(kind, of)] = MetricLabel(
            f"{what} {shown}",
            "",
            better,  # type: ignore[arg-type]
            f"{what} {shown}",
            role,  # type: ignore[arg-type]
            table,  # type: ignore[arg-type]
        )
    return found


class AnswerRecall:
    """ROUGE-L recall of greedy answers, words stemmed (as TOFU's scripts); fractions."""

    name = "answer_recall"
    version = 2
    reads = ("answers",)
    options = ("answer_new_tokens", "max_prompts")
    by_responses = True
    labels = MappingProxyType(_labels(ROUGE, "ROUGE"))

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are answered questions."""
        return asked.records.answers is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of the prompts' lengths."""
        found: list[str] = []
        for of, rows in asked_sets(asked).items():
            name = measure_name(ROUGE, of)
            found += asked.length_problems(name, _prompts(asked, rows), asked.suite.answer_new_tokens)
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Ask every question of every set."""
        for of, rows in asked_sets(subject).items():
            name = measure_name(ROUGE, of)

            def ask(name: str = name, rows: Sequence[AnsweredQuestion] = rows) -> Sequence[Response]:
                prompts = _prompts(subject, rows)
                said = subject.complete(name, prompts, subject.suite.answer_new_tokens)
                return [
                    Response(row.answer, answer, prompt)
                    for row, answer, prompt in zip(rows, said, prompts, strict=True)
                ]

            subject.responses(name, ask)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the answers; of a published log the recalls as it gives them."""
        found: dict[str, Measure] = {}
        for of in SETS:
            name = measure_name(ROUGE, of)
            if rows := log.responses.get(name, ()):
                found[name] = bootstrap_mean([stemmed_recall(row.truth, row.response) for row in rows])
            elif (scored := log.scores.get(measure_name(PROBABILITY, of), ())) and "recall" in scored[0]:
                found[name] = bootstrap_mean([row["recall"] for row in scored])
        return found


class AnswerLikelihood:
    """Probability and truth ratio of every set; see ``evaluation.answer_losses`` for the formulas."""

    name = "answer_likelihood"
    version = 2
    reads = ("answers",)
    options = ("max_prompts",)
    by_responses = False
    labels = MappingProxyType(
        {
            **_labels(PROBABILITY, "Probability"),
            **{
                measure_name(TRUTH_RATIO, of): MetricLabel(
                    f"Truth ratio {shown}", "", "up", table="known" if of == "forget" else "utility"
                )
                for of, shown in SHOWN.items()
            },
            LOG_RATIO: MetricLabel("Log truth ratio", "nats/token", "none", table="files"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are answered questions."""
        return asked.records.answers is not None

    def problems(self, asked: Asked) -> list[str]:
        """Pairs without words, and those that do not fit the positions."""
        try:
            for of, rows in asked_sets(asked).items():
                answer_rows(asked, [pair for row in rows for pair in _pairs(row)], of)
        except InputError as problem:
            return [f"{PROBABILITY}: {problem}"]
        return []

    def run(self, subject: Subject) -> dict[str, Measure]:
        """One forward pass over every answer of every record, sorted by length whatever record it belongs to."""
        for of in asked_sets(subject):
            losses_of(subject, of)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the losses as they stand in the log."""
        found: dict[str, Measure] = {}
        for of in SETS:
            if rows := log.scores.get(measure_name(PROBABILITY, of), ()):
                found |= set_measures(of, _losses(rows, of))
        return found


def stemmed_recall(answer: str, response: str) -> float:
    """ROUGE-L recall with Porter's stemmer: words of the answer's longest common subsequence with the response,
    as a share of the answer's words. Words are runs of letters and digits, lower-cased.

    Returns:
        fraction in [0, 1]; 0 for an empty response.
    """
    return float(_scorer().score(answer, response)["rougeL"].recall)


def asked_sets(asked: Asked) -> dict[str, tuple[AnsweredQuestion, ...]]:
    """Set → the questions that are put, no more than the suite allows."""
    assert asked.records.answers is not None
    most = asked.suite.max_prompts
    return {of: rows[:most] for of, rows in asked.records.answers.sets.items()}


def losses_of(subject: Subject, of: str) -> list[AnswerLosses]:
    """Losses of every answer to the questions of one set: computed once, however many metrics read them."""
    name, rows = measure_name(PROBABILITY, of), asked_sets(subject)[of]
    if name not in subject.log.scores:
        encoded, learned = answer_rows(subject, [pair for row in rows for pair in _pairs(row)], of)
        found = row_log_likelihoods(subject.model, encoded, subject.suite.batch_size, subject.step(name))
        losses = iter([-float(each[own].double().mean()) for each, own in zip(found, learned, strict=True)])
        subject.log.scores[name] = tuple(_logged(row, [next(losses) for _ in _pairs(row)]) for row in rows)
    return _losses(subject.log.scores[name], of)


def answer_rows(asked: Asked, pairs: Sequence[Question], of: str) -> tuple[list[list[int]], list[Any]]:
    """Every pair as the model reads it, and which of its tokens after the first are the answer's.

    They are cut as the pairs that are trained on: the answer with the token that ends it, as in TOFU's labels.

    Raises:
        InputError: an empty answer, or a pair that is longer than the model's positions.
    """
    assert asked.records.answers is not None
    longest = sys.maxsize if asked.positions is None else asked.positions
    how = AnswerWindows(asked.tokenizer, longest, chat=asked.records.answers.chat)
    encoded, learned = [], []
    for window in how.rows(pairs, f"the set {of}"):
        encoded.append(token_numbers(window).tolist())
        learned.append(window[1:] >= 0)
    return encoded, learned


def _pairs(row: AnsweredQuestion) -> list[Question]:
    """The answer, its paraphrase where it has one, the wrong answers."""
    answers = [row.answer, *([] if row.paraphrase is None else [row.paraphrase]), *row.wrong]
    return [Question(row.question, answer) for answer in answers]


def _prompts(asked: Asked, rows: Sequence[AnsweredQuestion]) -> list[str]:
    assert asked.records.answers is not None
    how = AnswerWindows(asked.tokenizer, 0, chat=asked.records.answers.chat)
    return [how.record(Question(row.question, row.answer)).prompt for row in rows]


def _logged(row: AnsweredQuestion, losses: Sequence[float]) -> dict[str, Any]:
    """A row of a log, of the losses of ``_pairs``."""
    first_wrong = len(losses) - len(row.wrong)
    return {"answer": losses[0], "paraphrase": losses[first_wrong - 1], "wrong": list(losses[first_wrong:])}


def _losses(rows: Sequence[Mapping[str, Any]], of: str) -> list[AnswerLosses]:
    """The rows of a log.

    Raises:
        InputError: one of them lacks a loss.
    """
    found = []
    for number, row in enumerate(rows):
        wrong = row.get("wrong")
        listed = wrong if isinstance(wrong, list | tuple) else [None]
        numbers: list[Any] = [row.get("answer"), row.get("paraphrase"), *listed]
        lacking = of in WITH_OPTIONS and not wrong
        if lacking or any(isinstance(each, bool) or not isinstance(each, int | float) for each in numbers):
            raise InputError(
                f"{measure_name(PROBABILITY, of)}, record {number} lacks a loss",
                allowed="the numbers answer and paraphrase, and a list of numbers, wrong",
            )
        answer, paraphrase, *others = map(float, numbers)
        found.append(AnswerLosses(answer, paraphrase, tuple(others)))
    return found


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
