from __future__ import annotations

import pytest

from quail_lightning.data.questions import Question, QuestionSet
from quail_lightning.evaluation.knowmem import question_prompts, truncate_answer


def test_the_prompt_is_muse_s_to_the_letter() -> None:
    questions = QuestionSet(
        questions=(Question("Who?", "Ann"), Question("Where?", "Rome")),
        examples=(Question("When?", "1999"), Question("Why?", "Rain")),
    )
    shots = "Question: When?\nAnswer: 1999\n\nQuestion: Why?\nAnswer: Rain\n\n"
    assert question_prompts(questions) == [
        shots + "Question: Who?\nAnswer: ",
        shots + "Question: Where?\nAnswer: ",
    ]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Rome\n\nmore", "Rome"),
        ("Rome\nQuestion", "Rome"),
        ("Rome Question: Who", "Rome "),
        ("Rome\nItaly", "Rome\nItaly"),
        ("a Question of taste", "a Question of taste"),
        ("Rome Question: Who\n\nx", "Rome "),
        ("\n\nRome", ""),
        ("", ""),
    ],
)
def test_the_answer_ends_at_the_first_stop(response: str, answer: str) -> None:
    assert truncate_answer(response) == answer
