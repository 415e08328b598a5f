"""TOFU: what a model answers to questions of four sets, and how likely it finds right and wrong answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quail_lightning.data.answers import AnswerWindows
from quail_lightning.data.questions import AnsweredQuestion, Question
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.tofu import (
    LOG_RATIO,
    PROBABILITY,
    ROUGE,
    SETS,
    TRUTH_RATIO,
    AnswerLosses,
    measure_name,
    set_measures,
)
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
    """ROUGE-L recall of greedy answers, words stemmed (TOFU); fractions."""

    name = "answer_recall"
    version = 1
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
        for of, rows in _asked(asked).items():
            name = measure_name(ROUGE, of)
            found += asked.length_problems(name, _prompts(asked, rows), asked.suite.answer_new_tokens)
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Ask every question of every set."""
        for of, rows in _asked(subject).items():
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
    """Probability and truth ratio of every set (TOFU); see ``evaluation.tofu`` for the formulas."""

    name = "answer_likelihood"
    version = 1
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
            for of, rows in _asked(asked).items():
                answer_rows(asked, [pair for row in rows for pair in _pairs(row)], of)
        except InputError as problem:
            return [f"{PROBABILITY}: {problem}"]
        return []

    def run(self, subject: Subject) -> dict[str, Measure]:
        """One forward pass over every answer of every record, sorted by length whatever record it belongs to."""
        for of, rows in _asked(subject).items():
            name = measure_name(PROBABILITY, of)
            pairs = [pair for row in rows for pair in _pairs(row)]
            encoded, learned = answer_rows(subject, pairs, of)
            size, step = subject.suite.batch_size, subject.step(name)
            found = row_log_likelihoods(subject.model, encoded, size, step)
            losses = iter([-float(each[own].double().mean()) for each, own in zip(found, learned, strict=True)])
            scored = []
            for row in rows:
                own_losses = [next(losses) for _ in _pairs(row)]
                scored.append(
                    {
                        "answer": own_losses[0],
                        "paraphrase": own_losses[0 if row.paraphrase is None else 1],
                        "wrong": own_losses[-len(row.wrong) :],
                    }
                )
            subject.log.scores[name] = tuple(scored)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the losses as they stand in the log."""
        found: dict[str, Measure] = {}
        for of in SETS:
            if rows := log.scores.get(measure_name(PROBABILITY, of), ()):
                found |= set_measures(of, [_losses(row, of, number) for number, row in enumerate(rows)])
        return found


def stemmed_recall(answer: str, response: str) -> float:
    """ROUGE-L recall with Porter's stemmer: words of the answer's longest common subsequence with the response,
    as a share of the answer's words. Words are runs of letters and digits, lower-cased.

    Returns:
        fraction in [0, 1]; 0 for an empty response.
    """
    return float(_scorer().score(answer, response)["rougeL"].recall)


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


def _asked(asked: Asked) -> dict[str, tuple[AnsweredQuestion, ...]]:
    assert asked.records.answers is not None
    most = asked.suite.max_prompts
    return {of: rows[:most] for of, rows in asked.records.answers.sets.items()}


def _pairs(row: AnsweredQuestion) -> list[Question]:
    """The answer, its paraphrase where it has one, the wrong answers."""
    answers = [row.answer, *([] if row.paraphrase is None else [row.paraphrase]), *row.wrong]
    return [Question(row.question, answer) for answer in answers]


def _prompts(asked: Asked, rows: Sequence[AnsweredQuestion]) -> list[str]:
    assert asked.records.answers is not None
    how = AnswerWindows(asked.tokenizer, 0, chat=asked.records.answers.chat)
    return [how.record(Question(row.question, row.answer)).prompt for row in rows]


def _losses(row: Mapping[str, Any], of: str, number: int) -> AnswerLosses:
    """A row of a log.

    Raises:
        InputError: it lacks a loss.
    """
    wrong = row.get("wrong")
    numbers = [row.get("answer"), row.get("paraphrase"), *(wrong if isinstance(wrong, list | tuple) else [None])]
    if not wrong or any(isinstance(each, bool) or not isinstance(each, int | float) for each in numbers):
        raise InputError(
            f"{measure_name(PROBABILITY, of)}, record {number} lacks a loss",
            allowed="the numbers answer and paraphrase, and a list of numbers, wrong",
        )
    return AnswerLosses(float(numbers[0]), float(numbers[1]), tuple(map(float, wrong)))


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
