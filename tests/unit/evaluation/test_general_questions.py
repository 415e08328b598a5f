"""Which answer is likeliest: scores against a plain float64 softmax, accuracy by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quail_lightning.data.multiple_choice import ChoiceQuestion
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log, write_log
from quail_lightning.evaluation.metrics import Subject, label_of
from quail_lightning.evaluation.metrics.general_questions import GeneralQuestions
from quail_lightning.evaluation.multiple_choice import choice_scores, chosen_options
from quail_lightning.run.results import Estimate, Undefined

ASKED = (
    ChoiceQuestion("Which animal barks?", "dog", ("cat", "a big cow", "duck")),
    ChoiceQuestion("Two and two?", "four", ("five", "six", "seven")),
    ChoiceQuestion("A longer question, so that rows are padded?", "yes", ("no", "it may be", "who knows")),
)


def written(folder: Path, asked: tuple[ChoiceQuestion, ...] = ASKED) -> str:
    path = folder / "asked.jsonl"
    rows = [{"question": each.question, "answer": each.answer, "wrong": list(each.wrong)} for each in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reference(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Mean log softmax of the answer's tokens, one text at a time, in float64 and numpy."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].numpy().astype(np.float64)
    found = []
    for place, token in enumerate(answer, start=len(prompt) - 1):
        row = logits[place]
        found.append(row[token] - row.max() - math.log(np.exp(row - row.max()).sum()))
    return float(np.mean(found))


@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_a_score_is_the_mean_log_likelihood_of_the_answers_own_tokens(
    model: Any, tokenizer: Any, batch_size: int | None
) -> None:
    scores = choice_scores(model, tokenizer, ASKED, batch_size)
    assert model.training, "the mode is left as it was"
    model.eval()
    assert scores.shape == (3, 4)
    for row, asked in zip(scores, ASKED, strict=True):
        before = [0, *tokenizer(f"Question: {asked.question}\nAnswer:")["input_ids"]]
        for score, option in zip(row, (asked.answer, *asked.wrong), strict=True):
            assert score == pytest.approx(reference(model, before, tokenizer(f" {option}")["input_ids"]), abs=1e-4)


def test_a_token_that_joins_the_prompt_with_an_answer_counts_for_all_four(model: Any) -> None:
    """Merged ``: c`` is one token: the answers then begin at the colon, in all of them."""

    class Joining:
        """Letters as their numbers, but ``: c`` as one token; a BOS before, as the encoder adds it."""

        bos_token_id, bos_token = 0, "<s>"

        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[2 + ord(sign) % 200 for sign in text.replace(": c", "\x07")] for text in texts]}

    asked = ChoiceQuestion("Q?", "dog", ("cat", "emu", "owl"))
    (scores,) = choice_scores(model, Joining(), [asked], None)  # type: ignore[arg-type]
    model.eval()
    before = [0, *Joining()(["Question: Q?\nAnswer"])["input_ids"][0]]
    for score, rest in zip(scores, (": dog", ": cat", ": emu", ": owl"), strict=True):
        assert score == pytest.approx(reference(model, before, Joining()([rest])["input_ids"][0]), abs=1e-4)


def test_the_likeliest_is_named_a_tie_knows_nothing_and_no_score_names_none() -> None:
    rows = [
        [-1.0, -2.0, -3.0, -4.0],
        [-2.0, -3.0, -1.0, -4.0],
        [-1.0, -2.0, -2.0, -1.0],
        [-1.0, -2.0, np.nan, -3.0],
        [-np.inf, -2.0, -1.0, -3.0],
    ]
    assert chosen_options(np.array(rows)) == [0, 2, 3, None, None]


def suite_subject(source: str, model: Any, tokenizer: Any) -> Subject:
    suite = EvaluationSuite(general_questions=source)
    return Subject(EvaluationRecords(), {}, suite, tokenizer, model.config, model)


def test_accuracy_is_the_share_that_was_named_and_its_log_gives_it_again(
    tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    metric, subject = GeneralQuestions(), suite_subject(written(tmp_path), model, tokenizer)
    measured = metric.run(subject)["general_questions"]
    right = [100.0 * (row[0] > max(row[1:])) for row in choice_scores(model, tokenizer, ASKED, None)]
    assert isinstance(measured, Estimate)
    assert measured.scores == tuple(right)
    assert measured.value == pytest.approx(sum(right) / 3)
    write_log(tmp_path / "log", subject.log)
    assert metric.from_log(read_log(tmp_path / "log"))["general_questions"] == measured


def test_by_hand_from_a_log_and_a_diverged_model_has_no_accuracy() -> None:
    rows = (Response("dog", "dog"), Response("four", "six"), Response("yes", "yes"), Response("no", "no"))
    measured = GeneralQuestions().from_log(BenchmarkLog({"general_questions": rows}))["general_questions"]
    assert isinstance(measured, Estimate)
    assert (measured.value, measured.n, measured.scores) == (75.0, 4, (100.0, 0.0, 100.0, 100.0))
    broken = BenchmarkLog({"general_questions": (*rows, Response("a", ""))})
    measured = GeneralQuestions().from_log(broken)["general_questions"]
    assert measured == Undefined("1 of 5 questions have an answer without a finite score")


def test_what_decides_it_is_the_questions_and_not_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here, there = (EvaluationSuite(general_questions=written(each)) for each in (tmp_path, tmp_path / "other"))
    metric = GeneralQuestions()
    assert here.deciding(metric) == there.deciding(metric)
    assert here.deciding(metric)["general_questions"]
    changed = EvaluationSuite(general_questions=written(tmp_path, (*ASKED[:2], replace(ASKED[2], answer="sure"))))
    assert changed.deciding(metric) != there.deciding(metric)
    assert EvaluationSuite().deciding(metric) == {"general_questions": None}


def test_a_broken_file_and_questions_beyond_the_positions_are_refused_before_anything_runs(
    tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    long = (*ASKED, ChoiceQuestion("Why? " * 80, "a", ("b", "c", "d")))
    (tmp_path / "long").mkdir()
    for source, said in (
        (str(tmp_path / "none.jsonl"), r"none\.jsonl"),
        (written(tmp_path / "long", long), r"the longest question.* and the model has 256 positions"),
    ):
        suite = EvaluationSuite(general_questions=source)
        with pytest.raises(InputError, match=said):
            suite.check(EvaluationRecords(), {}, tokenizer, model.config)


def test_its_label_bears_on_utility_and_says_what_guessing_gives() -> None:
    label = label_of("general_questions")
    assert (label.role, label.better, label.pairs, label.floor) == ("utility", "up", False, 25.0)
    assert "chance 25" in label.heading
