"""A model is chosen by windows that hold nothing of what is reported."""

import pytest
import torch

from quail_lightning.data.questions import EvaluationRecords, VerbatimPrompt
from quail_lightning.data.validation_windows import validation_windows
from quail_lightning.errors import InputError


class Words:
    """Token n is the word "wn"."""

    def decode(self, tokens, skip_special_tokens):
        return " ".join(f"w{token}" for token in tokens)


def words(start, stop):
    return " ".join(f"W{number}" for number in range(start, stop))


WINDOWS = torch.arange(60).reshape(3, 20)  # words 0 … 19, 20 … 39, 40 … 59


def test_windows_with_eight_words_of_a_prompt_or_its_truth_are_left_out():
    records = EvaluationRecords(verbatim=(VerbatimPrompt(words(8, 16), words(52, 60)),))
    found = validation_windows(WINDOWS, WINDOWS + 100, records, Words())
    assert torch.equal(found["forget"], WINDOWS[1:2])
    assert torch.equal(found["retain"], WINDOWS + 100)


def test_seven_words_in_common_are_not_a_prompt():
    records = EvaluationRecords(verbatim=(VerbatimPrompt(words(13, 20), "then others"),))
    assert torch.equal(validation_windows(WINDOWS, WINDOWS, records, Words())["forget"], WINDOWS)


def test_data_without_a_retain_set_has_no_retain_windows():
    records = EvaluationRecords(verbatim=(VerbatimPrompt(words(8, 16), words(52, 60)),))
    found = validation_windows(WINDOWS, WINDOWS[:0], records, Words())
    assert found["retain"].shape == (0, 20)


def test_a_set_without_such_windows_is_refused():
    records = EvaluationRecords(verbatim=(VerbatimPrompt(words(0, 30), words(30, 60)),))
    with pytest.raises(InputError, match=r"every forget window .*3 windows and 1 prompts"):
        validation_windows(WINDOWS, WINDOWS + 100, records, Words())
