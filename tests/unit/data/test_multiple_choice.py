"""Questions with four answers: the shipped ones, and what a file of one's own must be."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from quail_lightning.data.multiple_choice import SHIPPED, SHIPPED_FILE, ChoiceQuestion, read_choices
from quail_lightning.errors import InputError

ASKED = {"question": "Which animal barks?", "answer": "dog", "wrong": ["cat", "cow", "duck"]}


def written(folder: Path, *records: Any) -> str:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_file_is_read_in_its_order_without_the_white_space_around(tmp_path: Path) -> None:
    other = {"question": " Which one meows? ", "answer": "cat\n", "wrong": ["cow", " duck", "dog"]}
    first, second = read_choices(written(tmp_path, ASKED, other))
    assert first.options == ("dog", "cat", "cow", "duck")
    assert second == ChoiceQuestion("Which one meows?", "cat", ("cow", "duck", "dog"))


@pytest.mark.parametrize(
    "changed",
    [
        {"question": None},
        {"question": " "},
        {"answer": 7},
        {"answer": ""},
        {"wrong": "cat"},
        {"wrong": ["cat", "cow"]},
        {"wrong": ["cat", "cow", "duck", "hen"]},
        {"wrong": ["cat", "cow", ""]},
        {"wrong": ["cat", "cow", None]},
    ],
    ids=str,
)
def test_a_record_of_another_form_is_refused_with_its_line(tmp_path: Path, changed: dict[str, Any]) -> None:
    source = written(tmp_path, ASKED, ASKED | {"question": "Which one quacks?"} | changed)
    with pytest.raises(
        InputError, match=r"own\.jsonl, line 2 has the wrong form.*list of three strings"
    ) as refused:
        read_choices(source)
    assert "quacks" not in str(refused.value)


@pytest.mark.parametrize("wrong", [["cat", "cow", "Dog "], ["cat", "CAT", "cow"]], ids=str)
def test_answers_that_are_the_same_are_refused_with_their_line(tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(InputError, match=r"line 1: two of the answers are the same.*three other ones"):
        read_choices(written(tmp_path, ASKED | {"wrong": wrong}))


def test_a_question_that_stands_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    again = {"question": "which animal BARKS?", "answer": "wolf", "wrong": ["a", "b", "c"]}
    with pytest.raises(InputError, match=r"line 3: the question stands in \S+own\.jsonl, line 1 already"):
        read_choices(written(tmp_path, ASKED, ASKED | {"question": "Which one guards?"}, again))


def test_no_file_and_a_file_that_changed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        read_choices(str(tmp_path / "nothing.jsonl"))
    assert len(read_choices(written(tmp_path, ASKED))) == 1
    assert len(read_choices(written(tmp_path, ASKED, ASKED | {"question": "Which one guards?"}))) == 2


def test_the_shipped_questions_are_enough_and_each_stands_there_once() -> None:
    asked = read_choices(SHIPPED)  # the reader refuses doubles, and answers that are the same
    assert len(asked) == 128
    assert all(each.question.endswith("?") and each.question.isascii() for each in asked)
    assert not [each.question for each in asked if "these" in each.question.split()]  # no options are shown
    assert not {each.question for each in asked} & {option for each in asked for option in each.options}


def test_a_shipped_answer_is_not_told_by_its_length() -> None:
    asked = read_choices(SHIPPED)
    longest = sum(len(each.answer) > max(map(len, each.wrong)) for each in asked)
    shortest = sum(len(each.answer) < min(map(len, each.wrong)) for each in asked)
    right = mean(len(each.answer) for each in asked)
    wrong = mean(len(option) for each in asked for option in each.wrong)
    assert max(longest, shortest) <= len(asked) / 4  # what guessing by length would find
    assert right == pytest.approx(wrong, rel=0.1)
    said = (SHIPPED_FILE.parent / "PROVENANCE.md").read_text("utf-8")
    assert f"longest of the four in {longest} questions and alone the shortest in {shortest}" in " ".join(
        said.split()
    )


def test_no_answer_is_right_too_often() -> None:
    """A model that prefers one word whatever is asked must not be right by it."""
    answers = [each.answer for each in read_choices(SHIPPED)]
    assert max(map(answers.count, answers)) <= 5
