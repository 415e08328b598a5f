"""Short answers by token F1."""

import json

import pytest

from quail_lightning.errors import InputError
from quail_lightning.evaluation.triviaqa import (
    ShortAnswer,
    normalized,
    question_prompts,
    read_short_answers,
    token_f1,
    truncate_answer,
)


def test_words_are_compared_without_case_punctuation_and_articles():
    assert normalized("The U.S. Navy's a-team, an Ace!") == ["us", "navys", "ateam", "ace"]


@pytest.mark.parametrize(
    ("answers", "response", "expected"),
    [
        (("New York City",), "york city hall", 2 * (2 / 3) * (2 / 3) / (4 / 3)),
        (("NYC", "New York"), "It is New York", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        (("red red blue",), "red red red", 2 / 3),
        (("Paris",), "Rome", 0),
        (("Paris",), "", 0),
        (("The",), "a", 1),
    ],
)
def test_f1_against_the_best_answer(answers, response, expected):
    assert token_f1(answers, response) == pytest.approx(expected)


def test_every_layout_of_answers_is_read(tmp_path):
    rows = [
        {"question": "a?", "answer": "b"},
        {"question": "c?", "answers": ["d", "e"]},
        {"question": "f?", "answer": {"value": "g", "aliases": ["h"]}},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    read = read_short_answers(str(tmp_path / "q.jsonl"))
    assert read == [ShortAnswer("a?", ("b",)), ShortAnswer("c?", ("d", "e")), ShortAnswer("f?", ("g", "h"))]


@pytest.mark.parametrize(
    "row", [{"question": "a?"}, {"question": 3, "answer": "b"}, {"question": "a?", "answers": []}]
)
def test_a_record_without_question_or_answer_is_named(row, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([{"question": "a?", "answer": "b"}, row]))
    with pytest.raises(InputError, match=r"q\.json, record 1 has the wrong form; got .*Allowed"):
        read_short_answers(str(tmp_path / "q.json"))


def test_prompts_stand_after_the_examples_and_answers_end_with_their_line():
    pairs = [ShortAnswer("a?", ("b", "c")), ShortAnswer("d?", ("e",))]
    assert question_prompts(pairs[1:], pairs[:1]) == ["Question: a?\nAnswer: b\n\nQuestion: d?\nAnswer:"]
    assert truncate_answer("\n the sea \nQuestion: next") == "the sea"
