"""RWKU's score."""

import pytest

from quail_lightning.evaluation.rwku import published_recall, rougeL_recall, truncate_answer


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("Maine", "He was born in Portland, Maine.", 1),
        ("the dark tower", "Tower dark, the tower", 2 / 3),
        ("It", "nothing", 0),
        ("It", "", 0),
    ],
)
def test_recall_is_the_common_subsequences_share_of_the_answer(answer, response, expected):
    assert rougeL_recall(answer, response) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        (
            "Maine",
            "He was born in Portland, Maine.",
            1,
        ),  # the full stop ends the sentence and is no part of a word
        ("Maine", "He was born in maine", 0),  # case is kept
        ("Maine", "in Maine, I think", 0),  # and so is punctuation
        ("the dark tower", "Tower dark, the tower", 2 / 3),
        ("a a a b", "a b", 1),  # each different word once
        ("It", "", 0),
        ("It", "...", 0),
        ("...", "It", 0),
    ],
)
def test_the_published_recall_is_that_of_rwku_s_own_package(answer, response, expected):
    assert published_recall(answer, response) == pytest.approx(expected)


def test_an_answer_ends_with_its_line():
    assert truncate_answer(" Maine \nQuestion: next") == "Maine"
    assert truncate_answer("\nMaine") == ""
