"""Prompts cut from validation windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.evaluation.validation_prompts import validation_prompts


def windows_of(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    return torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts])


def test_the_first_half_is_the_prompt_and_the_next_tokens_are_the_truth(tokenizer: Any) -> None:
    text = "".join(chr(97 + number % 26) for number in range(399))  # a byte a token, with BOS 400
    found = validation_prompts(windows_of(tokenizer, [text, text[::-1]]), tokenizer, 400)
    assert found.prompts == (text[:199], text[::-1][:199])
    assert found.truths == (text[199:326], text[::-1][199:326])  # 127 tokens
    assert found.new_tokens == 128


def test_a_short_windows_completion_is_as_long_as_its_second_half(tokenizer: Any) -> None:
    found = validation_prompts(windows_of(tokenizer, ["abcdefg"]), tokenizer, 8)
    assert (found.prompts, found.truths, found.new_tokens) == (("abc",), ("defg",), 4)


def test_what_does_not_fit_the_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        InputError, match=r"validation prompts.*8, and the model has 7 pos.*best\.max_prompts to 0"
    ):
        validation_prompts(windows_of(tokenizer, ["abcdefg"]), tokenizer, 7)
