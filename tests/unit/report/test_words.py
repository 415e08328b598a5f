"""A verdict in plain words says no more than the answers do, and the worst format decides."""

import pytest

from quail_lightning.report.words import finding

GOOD = {"known": "yes", "forgotten": "yes", "survives": "yes", "over_forgotten": "no", "utility": "yes"}


def test_a_good_run_is_good_in_every_format_that_was_tested() -> None:
    found = finding({"bf16": GOOD, "nf4": GOOD}, "bf16")
    assert found.tone == "good"
    assert found.headline == "The text was forgotten, and stays so in every format that was tested (bf16, nf4)."
    assert found.details == ("The model still does what it is kept for.",)


@pytest.mark.parametrize(
    ("question", "answer", "tone", "said"),
    [
        ("known", "no", "unknown", "There was nothing to forget"),
        ("forgotten", "no", "bad", "The text was not forgotten."),
        ("forgotten", "unknown", "unknown", "cannot be told"),
        ("forgotten", "in part", "mixed", "The text was forgotten in part, and stays so"),
        ("survives", "no", "bad", "The text was forgotten, but it came back in fp4."),
        ("survives", "in part", "mixed", "in fp4 some of it came back, or may have"),
        ("survives", "unknown", "unknown", "whether it stays forgotten in fp4 cannot be told"),
        ("over_forgotten", "yes", "mixed", "Over-forgotten in fp4"),
        ("over_forgotten", "unknown", "mixed", "Whether too much was forgotten in fp4 cannot be told"),
        ("utility", "no", "bad", "The model lost what it is kept for in fp4."),
        ("utility", "in part", "mixed", "in part, or for part of the measures, in fp4"),
        ("utility", "unknown", "mixed", "was not measured in fp4"),
    ],
)
def test_one_bad_format_decides_and_is_named(question: str, answer: str, tone: str, said: str) -> None:
    found = finding({"bf16": GOOD, "nf4": GOOD, "fp4": GOOD | {question: answer}}, "bf16")
    assert found.tone == tone
    assert said in found.text


def test_what_was_not_said_is_not_taken_for_good() -> None:
    assert finding({}, "bf16").tone == "unknown"
    assert finding({"bf16": GOOD, "nf4": {"text": "?"}}, "bf16").tone == "unknown"
    alone = finding({"bf16": GOOD}, "bf16")
    assert (alone.tone, alone.headline) == (
        "mixed",
        "The text was forgotten at 16 bits; no other format was tested.",
    )
