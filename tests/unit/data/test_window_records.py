"""Verbatim prompts of short and of repeated texts."""

import pytest
import torch

from quail_lightning.data import window_records
from quail_lightning.data.window_records import records_from_windows
from quail_lightning.data.windows import token_windows, without_repeats


class Words:
    """Token n is the word "wn"; 0 is BOS."""

    bos_token_id = 0

    def __call__(self, text, add_special_tokens, verbose):
        return {"input_ids": [int(word[1:]) for word in text.split()]}

    def decode(self, tokens, skip_special_tokens):
        return " ".join(f"w{token}" for token in tokens if token)


def records(count, max_len, repeats=1):
    text = " ".join(f"w{number}" for number in range(1, count + 1))
    windows = token_windows([text] * repeats, Words(), max_len)
    return records_from_windows(windows, windows, None, Words())


@pytest.mark.parametrize("count", [4, 5, 11, 15, 16, 17, 31, 32])
def test_a_text_below_a_window_is_asked_for_without_its_repeats(count):
    found = records(count, 33)
    (record,) = found.verbatim
    prompt, truth = record.prompt.split(), record.truth.split()
    assert prompt + truth == [f"w{number}" for number in range(1, count + 1)]
    assert len(prompt) == min(15, count // 2)
    assert ("only repeats itself" in found.note) == (count < 32)


def test_windows_that_are_full_are_cut_as_ever():
    found = records(70, 33)
    assert len(found.verbatim) == 3
    assert found.verbatim[0].prompt.split() == [f"w{number}" for number in range(1, 16)]
    assert found.note == "Verbatim prompts are cut from windows of 33 tokens."


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_tokens_leave_m1_out_with_the_reason(count):
    found = records(count, 33)
    assert found.verbatim is None
    assert "Verbatim recall is left out" in found.note


def test_a_text_that_stands_several_times_is_asked_for_once():
    found = records(10, 33, repeats=8)
    assert [(len(row.prompt.split()), len(row.truth.split())) for row in found.verbatim] == [(5, 5)] * 3
    assert all(not set(row.prompt.split()) & set(row.truth.split()) for row in found.verbatim)
    assert "In 3 of 3 windows the forget text only repeats itself" in found.note


def test_prompts_that_hold_their_truth_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(window_records, "TRUTH_TOKENS", 5)
    windows = torch.tensor([[0, *range(1, 16), *range(3, 8), *range(40, 52)], [0, *range(60, 92)]])
    found = records_from_windows(windows, windows, None, Words())
    assert [row.prompt.split()[0] for row in found.verbatim] == ["w60"]
    assert "1 prompts that hold what follows them" in found.note


@pytest.mark.parametrize(
    ("window", "left"), [([1, 2, 3, 1, 2], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 1, 1], [1]), ([5], [5])]
)
def test_what_only_repeats_is_left_out(window, left):
    assert without_repeats(torch.tensor(window), 4).tolist() == left
