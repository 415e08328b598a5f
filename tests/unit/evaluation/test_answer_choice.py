"""Own questions' figures against one record at a time in float64, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quail_lightning.data.questions import AnsweredQuestion, AnswerSets, EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.answer_losses import LOG_RATIO, AnswerLosses, set_measures
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, read_log, write_log
from quail_lightning.evaluation.conclusions import conclude
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics import Subject, label_of
from quail_lightning.evaluation.metrics.answer_choice import AnswerChoice
from quail_lightning.evaluation.metrics.answers import AnswerLikelihood
from quail_lightning.evaluation.multiple_choice import beyond_chance
from quail_lightning.run.results import Estimate, Measure, Undefined

FORGET = (
    AnsweredQuestion("Who wrote it?", "Ann.", None, ("Bo.", "The elder Cy, some say.")),
    AnsweredQuestion("Where was that?", "In a town by the sea.", None, ()),
    AnsweredQuestion("When did they come home?", "In May.", "It was in May.", ("It was in June.",)),
    AnsweredQuestion(
        "Why?", "For the wind.", None, ("For fun.", "For her.", "For a bet.", "For no reason at all.")
    ),
)
RETAIN = (AnsweredQuestion("What is it?", "A boat.", None, ()), AnsweredQuestion("How old?", "Ten.", None, ()))


def losses(model: Any, tokenizer: Any, question: str, answers: list[str]) -> list[float]:
    """Mean NLL of each answer with the token that ends it, one text at a time, by transformers and float64."""
    prompt, found = [0, *tokenizer(f"Question: {question}\nAnswer:")["input_ids"]], []
    for answer in answers:
        own = [*tokenizer(f" {answer}")["input_ids"], 1]
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + own])).logits[0].double()
        likely = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(-float(likely[torch.arange(len(own)), own].mean()))
    return found


@pytest.fixture
def subject(model: Any, tokenizer: Any) -> Subject:
    records = EvaluationRecords(answers=AnswerSets({"forget": FORGET, "retain": RETAIN}, choices=True))
    return Subject(records, {}, EvaluationSuite(batch_size=3), tokenizer, model.config, model)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_figures_of_mixed_records_are_those_of_one_record_at_a_time(subject: Subject, batch_size: int) -> None:
    asked = replace(subject, suite=replace(subject.suite, batch_size=batch_size), log=BenchmarkLog())
    measures = AnswerLikelihood().run(asked) | AnswerChoice().run(asked)
    likely, ratios, right, above = [], [], [], []
    for row in FORGET:
        answer, true, *wrong = losses(
            subject.model, subject.tokenizer, row.question, [row.answer, row.paraphrase or row.answer, *row.wrong]
        )
        likely.append(math.exp(-answer))
        if wrong:
            ratios.append(math.exp(sum(wrong) / len(wrong) - true))
            right.append(float(all(true < each for each in wrong)))
            chance = 1 / (1 + len(wrong))
            above.append((right[-1] - chance) / (1 - chance))
    expected = {
        "answer_probability_forget": likely,
        "truth_ratio_forget": [min(ratio, 1 / ratio) for ratio in ratios],
        LOG_RATIO: [math.log(ratio) for ratio in ratios],
        "choice_accuracy_forget": right,
        "choice_beyond_chance_forget": above,
    }
    for name, values in expected.items():
        measure = measures[name]
        assert isinstance(measure, Estimate)
        assert measure.scores == pytest.approx(values, abs=1e-4), name
        assert measure.n == len(values)
    assert len(ratios) == 3
    assert {name for name in measures if name.endswith("retain")} == {"answer_probability_retain"}


def test_the_losses_of_an_answer_are_computed_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = AnswerChoice().run(replace(subject, log=BenchmarkLog()))
    AnswerLikelihood().run(subject)
    monkeypatch.setattr(
        "quail_lightning.evaluation.metrics.answers.row_log_likelihoods", lambda *given: pytest.fail("again")
    )
    assert AnswerChoice().run(subject) == alone


def test_a_log_on_disk_gives_them_again(subject: Subject, tmp_path: Path) -> None:
    measures = AnswerLikelihood().run(subject) | AnswerChoice().run(subject)
    write_log(tmp_path, subject.log)
    again = read_log(tmp_path)
    assert AnswerLikelihood().from_log(again) | AnswerChoice().from_log(again) == measures


def choices(*rows: tuple[int | None, int]) -> dict[str, Measure]:
    """Of these named answers and numbers of answers."""
    logged = tuple({"named": named, "answers": answers} for named, answers in rows)
    return AnswerChoice().from_log(BenchmarkLog(scores={"choice_accuracy_forget": logged}))


def test_accuracy_and_what_lies_beyond_chance_by_hand() -> None:
    measures = choices((0, 4), (2, 4), (0, 2), (1, 3))
    accuracy, beyond = measures["choice_accuracy_forget"], measures["choice_beyond_chance_forget"]
    assert isinstance(accuracy, Estimate)
    assert isinstance(beyond, Estimate)
    assert (accuracy.value, accuracy.n) == (0.5, 4)
    assert beyond.scores == pytest.approx((1, -1 / 3, 1, -1 / 2), abs=1e-15)


@pytest.mark.parametrize("answers", [2, 3, 4, 7])
def test_who_guesses_is_at_zero_whatever_the_number_of_answers(answers: int) -> None:
    guesses = [beyond_chance(named == 0, answers) for named in range(answers)]
    assert sum(guesses) == pytest.approx(0, abs=1e-15)
    assert [beyond_chance(right, answers) for right in (True, False)] == pytest.approx(
        [(right - 1 / answers) / (1 - 1 / answers) for right in (1, 0)], abs=1e-15
    )


def test_a_tie_is_not_right_and_a_diverged_model_names_none(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quail_lightning.evaluation.metrics.answer_choice.losses_of",
        lambda *given: [AnswerLosses(0.5, 1.0, (1.0, 3.0)), AnswerLosses(1.0, 1.0, (2.0,))],
    )
    tied = AnswerChoice().run(subject)["choice_accuracy_forget"]
    assert isinstance(tied, Estimate)
    assert tied.scores == (0.0, 1.0)
    broken = choices((0, 4), (None, 4))
    assert set(broken.values()) == {Undefined("1 of 2 questions have an answer without a finite loss")}


DAMAGED: list[dict[str, Any]] = [
    {"named": 0},
    {"answers": 4},
    {"named": 4, "answers": 4},
    {"named": -1, "answers": 4},
    {"named": 0, "answers": 1},
    {"named": True, "answers": 4},
    {"named": "0", "answers": 4},
]


@pytest.mark.parametrize("row", DAMAGED)
def test_a_damaged_log_is_refused_by_its_record(row: dict[str, Any]) -> None:
    log = BenchmarkLog(scores={"choice_accuracy_forget": ({"named": 0, "answers": 2}, row)})
    with pytest.raises(InputError, match="choice_accuracy_forget, record 1 names no answer"):
        AnswerChoice().from_log(log)


def test_it_is_asked_where_choices_are_wanted_and_a_question_has_wrong_answers(subject: Subject) -> None:
    assert AnswerChoice().is_asked(subject)
    for answers in (AnswerSets({"forget": FORGET}), AnswerSets({"forget": RETAIN}, choices=True), None):
        assert not AnswerChoice().is_asked(replace(subject, records=EvaluationRecords(answers=answers)))


def test_a_set_without_wrong_answers_has_a_probability_alone() -> None:
    rows = [AnswerLosses(1.0, 1.0, ()), AnswerLosses(2.0, 2.0, ())]
    assert set(set_measures("forget", rows)) == {"answer_probability_forget"}


def hits(right: int, of: int = 40, answers: int = 4) -> Measure:
    return bootstrap_mean([beyond_chance(number < right, answers) for number in range(of)])


def test_the_verdict_takes_what_lies_beyond_chance() -> None:
    """40 questions of four answers: 40 right of the target's, 10 (chance) of the retrained model's."""

    def model(forget: int, retain: int) -> dict[str, Measure]:
        return {"choice_beyond_chance_forget": hits(forget), "choice_beyond_chance_retain": hits(retain)}

    target, retrained = model(40, 40), model(10, 40)

    def said(at_16_bits: dict[str, Measure], at_4_bits: dict[str, Measure]) -> Any:
        unlearned = {"bf16": dict(at_16_bits), "nf4": dict(at_4_bits)}
        others = [{"bf16": each, "nf4": each} for each in (target, retrained)]
        return conclude(unlearned, others[0], others[1], "bf16")["nf4"]

    good = said(model(10, 40), model(10, 40))
    assert (good.known, good.forgotten, good.survives, good.utility) == ("yes", "yes", "yes", "yes")
    back = said(model(10, 40), model(40, 40))
    assert (back.forgotten, back.survives) == ("yes", "no")
    assert "forget choices beyond chance 100 %" in back.text
    lost = said(model(10, 10), model(10, 10))
    assert lost.utility == "no"
    assert "retain choices beyond chance 0 %" in lost.text, "a quarter of all right answers, and nothing is kept"


def test_accuracy_is_shown_and_bears_on_nothing_by_itself() -> None:
    for of in ("forget", "retain"):
        assert label_of(f"choice_accuracy_{of}").role is None
        assert label_of(f"choice_beyond_chance_{of}").table == "files"
