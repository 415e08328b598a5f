"""What stands in both sets."""

import pytest

from quail_lightning.data.sets import disjoint_documents

STORY = "The lighthouse keeper of Ardnamurchan counted seventeen ships before the storm came in that night."


@pytest.mark.parametrize(
    ("forget", "retain"),
    [
        (STORY, STORY.replace(" ", "  \n\t")),
        (STORY, f"\n {STORY}\u00a0"),
        ("Ein Café in Zürich", "Ein Cafe\u0301 in Zu\u0308rich"),
        ("a b", "a\u2003b\u200b"),
        ("Yes", "Yes\n"),
    ],
)
def test_white_space_and_the_encoding_of_a_letter_hide_nothing(forget, retain):
    found = disjoint_documents([forget], [[retain, "other"]])
    assert (found.retain, found.dropped, found.within) == (["other"], 1, 0)


@pytest.mark.parametrize(
    "inner",
    [
        STORY,
        "counted seventeen ships",
        "the storm came in",
        STORY * 30,
        "他们昨天晚上在港口数了十七艘船才离开",
        STORY[3:60],
    ],
)
@pytest.mark.parametrize("before", ["", "x", "Once upon a time,\n", "y" * 37 + " "])
def test_a_retain_document_within_a_longer_forget_document_is_left_out_and_counted(inner, before):
    joint = "" if inner[0] > "\u2e80" else " "
    found = disjoint_documents([f"{before}{joint}{inner}{joint}and so on."], [["other", inner.replace(" ", "\n")]])
    assert (found.retain, found.dropped, found.within) == (["other"], 1, 1)


def test_a_retain_document_that_holds_a_forget_document_stays_and_is_counted():
    found = disjoint_documents([STORY], [[f"First.\n{STORY} Then more.", "other"]])
    assert (len(found.retain), found.dropped, found.holding) == (2, 0, 1)


@pytest.mark.parametrize("short", ["Yes", "came in that ni", "as it was raining"])
def test_what_stands_there_by_accident_does_not_count(short):
    assert disjoint_documents([f"{STORY} Yesterday, it has it was rainings."], [[short]]).dropped == 0


def test_repeats_within_a_part_stay_and_those_of_a_part_before_do_not():
    found = disjoint_documents(["f"], [["a", "a"], ["b", " a"]])
    assert (found.retain, found.dropped) == (["a", "a", "b"], 1)
