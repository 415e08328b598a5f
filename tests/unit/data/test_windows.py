"""Windows as PROTOCOL section 2 describes them."""

import pytest
import torch

from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError


class Characters:
    """A tokenizer of one token a character, so that every window can be read off the text."""

    bos_token_id = 0
    name_or_path = "characters"

    def __call__(self, text, add_special_tokens, verbose):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


def text(window):
    return "".join(chr(token) for token in window[1:])


def test_documents_are_joined_by_a_blank_line_and_cut_with_bos_in_front():
    windows = token_windows(["abcd", "efgh"], Characters(), max_len=6)
    assert windows.shape == (2, 6)
    assert windows[:, 0].tolist() == [0, 0]
    assert [text(window) for window in windows] == ["abcd\n", "\nefgh"]


def test_last_window_is_filled_from_the_start_of_the_first():
    windows = token_windows(["abcdefg"], Characters(), max_len=6)
    assert [text(window) for window in windows] == ["abcde", "fgabc"]


def test_text_shorter_than_a_window_repeats():
    assert text(token_windows(["ab"], Characters(), max_len=6)[0]) == "ababa"


def test_windows_of_an_exact_multiple_get_no_filling():
    assert len(token_windows(["abcdefghij"], Characters(), max_len=6)) == 2


def test_no_text_is_refused():
    with pytest.raises(InputError, match="no token"):
        token_windows([""], Characters(), max_len=6)


def test_windows_are_int64():
    assert token_windows(["abc"], Characters(), max_len=3).dtype == torch.int64
