"""Losses of answers against one record at a time in float64; memorization by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quail_lightning.data.questions import AnsweredQuestion, AnswerSets, EvaluationRecords, VerbatimPrompt
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log, write_log
from quail_lightning.evaluation.metrics import Subject
from quail_lightning.evaluation.metrics.answers import AnswerLikelihood, AnswerRecall, stemmed_recall
from quail_lightning.evaluation.metrics.memorization import (
    EXACT,
    STRENGTH,
    Memorization,
    exact_memorization,
    extraction_strength,
)
from quail_lightning.inference import likelihood
from quail_lightning.run.results import Estimate

ASKED = (
    AnsweredQuestion("Who wrote it?", "Ann.", "It was Ann.", ("It was Bo.", "It was the elder Cy, some say.")),
    AnsweredQuestion(
        "Where?", "In a town by the sea.", "A town by the sea.", ("A city.", "A village in the hills.")
    ),
    AnsweredQuestion("When did the last of them come home?", "In May.", None, ("In June.", "Never.")),
)
SETS = AnswerSets({"forget": ASKED, "retain": ASKED[:2], "real_authors": ASKED[1:], "world_facts": ASKED[2:]})


@pytest.fixture
def subject(model: Any, tokenizer: Any) -> Subject:
    suite = EvaluationSuite(answer_new_tokens=6, batch_size=3)
    return Subject(EvaluationRecords(answers=SETS), {}, suite, tokenizer, model.config, model)


def rows_of(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Prompt and answer as taught: BOS, the question, the answer with the token that ends it."""
    return [0, *tokenizer(f"Question: {question}\nAnswer:")["input_ids"]], [
        *tokenizer(f" {answer}")["input_ids"],
        1,
    ]


def logits_of(model: Any, tokens: list[int]) -> Any:
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].double().numpy()


def loss(model: Any, tokenizer: Any, question: str, answer: str) -> float:
    prompt, own = rows_of(tokenizer, question, answer)
    logits = logits_of(model, prompt + own)
    found = []
    for place, token in enumerate(own, start=len(prompt) - 1):
        row = logits[place]
        found.append(row.max() + math.log(np.exp(row - row.max()).sum()) - row[token])
    return float(np.mean(found))


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_losses_are_those_of_one_answer_at_a_time(subject: Subject, batch_size: int | None) -> None:
    asked = replace(subject, suite=replace(subject.suite, batch_size=batch_size), log=BenchmarkLog())
    measures = AnswerLikelihood().run(asked)
    model, tokenizer = subject.model, subject.tokenizer
    for of, rows in SETS.sets.items():
        true = [loss(model, tokenizer, row.question, row.answer) for row in rows]
        other = [loss(model, tokenizer, row.question, row.paraphrase or row.answer) for row in rows]
        wrong = [[loss(model, tokenizer, row.question, each) for each in row.wrong] for row in rows]
        logged = asked.log.scores[f"answer_probability_{of}"]
        assert [row["answer"] for row in logged] == pytest.approx(true, abs=2e-5)
        assert [row["paraphrase"] for row in logged] == pytest.approx(other, abs=2e-5)
        assert [row["wrong"] for row in logged] == [pytest.approx(each, abs=2e-5) for each in wrong]
        ratios = [math.exp(np.mean(each) - own) for each, own in zip(wrong, other, strict=True)]
        forget = of == "forget"
        scores = [min(ratio, 1 / ratio) if forget else max(0, 1 - 1 / ratio) for ratio in ratios]
        measure = measures[f"truth_ratio_{of}"]
        assert isinstance(measure, Estimate)
        assert measure.value == pytest.approx(np.mean(scores), abs=1e-4)
        probability = measures[f"answer_probability_{of}"]
        assert isinstance(probability, Estimate)
        likely = np.exp(-np.array(true))
        if of in ("real_authors", "world_facts"):
            likely = likely / (likely + np.exp(-np.array(wrong)).sum(1))
        assert probability.value == pytest.approx(likely.mean(), rel=1e-4)


def test_losses_and_hits_come_back_from_the_log_on_disk(subject: Subject, tmp_path: Any) -> None:
    measures = AnswerLikelihood().run(subject) | Memorization().run(subject)
    write_log(tmp_path, subject.log)
    again = read_log(tmp_path)
    assert AnswerLikelihood().from_log(again) | Memorization().from_log(again) == measures


def test_max_prompts_takes_the_first_questions_of_each_set(subject: Subject) -> None:
    fewer = replace(subject, suite=replace(subject.suite, max_prompts=1), log=BenchmarkLog())
    assert {measure.n for measure in AnswerLikelihood().run(fewer).values() if isinstance(measure, Estimate)} == {
        1
    }


def test_answers_longer_than_the_positions_are_a_problem_of_the_metric(subject: Subject) -> None:
    long = AnsweredQuestion("Who?", "word " * 200, None, ("no",))
    asked = replace(subject, records=EvaluationRecords(answers=AnswerSets({"forget": (long,)})))
    assert "longer" in AnswerLikelihood().problems(asked)[0]
    assert "longer" in Memorization().problems(asked)[0]


def test_recall_stems_words_and_counts_the_answers() -> None:
    assert stemmed_recall("He writes books", "writing of a book") == pytest.approx(2 / 3)  # writ, book
    assert stemmed_recall("a b c d", "A c x") == 0.5
    assert stemmed_recall("a b", "") == 0


def test_recall_of_answers_in_the_log() -> None:
    log = BenchmarkLog({"answer_rouge_forget": (Response("a b c d", "a c", ""), Response("a", "b", ""))})
    measure = AnswerRecall().from_log(log)["answer_rouge_forget"]
    assert isinstance(measure, Estimate)
    assert measure.value == 0.25


@pytest.mark.parametrize(
    ("hits", "strength", "exact"),
    [
        ("0110111", 3 / 7, 5 / 7),  # from the fifth token on all are right
        ("1111", 1, 1),
        ("0000", 1 / 4, 0),  # after all but one token nothing is left to be wrong
        ("1110", 1 / 4, 3 / 4),
        ("01", 1 / 2, 1 / 2),
        ("0", 1, 0),
        ("1", 1, 1),
    ],
)
def test_strength_and_exactness_by_hand(hits: str, strength: float, exact: float) -> None:
    assert extraction_strength(hits) == pytest.approx(strength)
    assert exact_memorization(hits) == pytest.approx(exact)


def published_strength(predicted: list[int], true: list[int]) -> float:
    """As open-unlearning defines it: the first k at which the rest agrees, counted up, last token left out."""
    predicted, true = predicted[:-1], true[:-1]
    for k in range(len(true)):
        if predicted[k:] == true[k:]:
            break
    return 1 - k / len(true)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("texts", [True, False])
def test_memorization_is_that_of_one_text_at_a_time(
    subject: Subject, apart: bool, texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "is_head_apart", lambda model: apart)
    monkeypatch.setattr(likelihood, "CPU_WORDS", 50)  # several pieces of the vocabulary
    tokenizer, model = subject.tokenizer, subject.model
    if texts:
        recited = (
            VerbatimPrompt("It was a dark", " and stormy night"),
            VerbatimPrompt("Call", " me Ishmael, sir"),
        )
        subject = replace(subject, records=EvaluationRecords(recited=recited))
        pairs = [([0, *tokenizer(t.prompt)["input_ids"]], tokenizer(t.truth)["input_ids"]) for t in recited]
    else:
        pairs = [rows_of(tokenizer, row.question, row.answer) for row in ASKED]
    measures = Memorization().run(subject)
    strengths, shares = [], []
    for prompt, truth in pairs:
        predicted = logits_of(model, prompt + truth).argmax(-1)[len(prompt) - 1 : -1].tolist()
        strengths.append(published_strength(predicted, truth))
        shares.append(np.mean([said == own for said, own in zip(predicted[:-1], truth[:-1], strict=True)]))
    for name, expected in ((STRENGTH, strengths), (EXACT, shares)):
        measure = measures[name]
        assert isinstance(measure, Estimate)
        assert list(measure.scores) == pytest.approx(expected, abs=1e-12)
