"""Windows that say which of their tokens are only read."""

import torch

from quail_lightning.functional.masking import (
    labels_of,
    masked,
    side_by_side,
    token_numbers,
    without_common_padding,
    without_padding,
)

TOKENS = torch.tensor([[0, 6, 7, 8], [9, 1, 0, 0]])
LEARNED = torch.tensor([[False, False, True, True], [False, True, False, False]])


def test_tokens_and_labels_are_had_back_from_one_tensor():
    windows = masked(TOKENS, LEARNED)
    assert windows.tolist() == [[-1, -7, 7, 8], [-10, 1, -1, -1]]
    assert torch.equal(token_numbers(windows), TOKENS)
    assert labels_of(windows).tolist() == [[-100, -100, 7, 8], [-100, 1, -100, -100]]


def test_a_window_of_text_is_its_own_tokens_and_labels():
    assert torch.equal(token_numbers(TOKENS), TOKENS)
    assert torch.equal(labels_of(TOKENS), TOKENS)


def test_what_stands_behind_the_last_learned_token_is_padding():
    windows = masked(TOKENS, LEARNED)
    assert without_padding(windows[0]).tolist() == [0, 6, 7, 8]
    assert without_padding(windows[1]).tolist() == [9, 1]
    assert without_padding(TOKENS[1]).tolist() == [9, 1, 0, 0]  # of text nothing is
    assert without_padding(torch.tensor([-1, -2])).tolist() == []


def test_padding_that_all_windows_of_a_batch_have_is_cut():
    windows = masked(TOKENS, LEARNED)
    assert torch.equal(without_common_padding(windows), windows)
    assert without_common_padding(windows[1:]).tolist() == [[-10, 1]]
    assert torch.equal(without_common_padding(TOKENS), TOKENS)
    assert torch.equal(without_common_padding(~TOKENS), ~TOKENS)  # nothing is learned: there is nothing to keep


def test_sets_of_other_widths_are_padded_by_tokens_that_nothing_learns():
    joined = side_by_side([TOKENS, torch.tensor([[5, 4]])])
    assert labels_of(joined).tolist() == [*TOKENS.tolist(), [5, 4, -100, -100]]
    assert int(token_numbers(joined).min()) == 0
