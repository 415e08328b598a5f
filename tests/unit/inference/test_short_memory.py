"""An evaluation that is short of memory names the batch and the length to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quail_lightning.errors import RunError
from quail_lightning.inference import decoding
from quail_lightning.inference.generation import generate
from quail_lightning.inference.likelihood import token_log_likelihoods, window_nlls

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: Tried to allocate 2.00 GiB."),
]
PROMPTS = ["ab", "abcd", "abcdef", "a"]
WINDOWS = torch.randint(2, 200, (5, 30), generator=torch.Generator().manual_seed(1))


def shorten(model: Any, error: Exception, tokens: int = 20) -> None:
    """Let a model's pass fail that has more than so many tokens."""

    def fail(module: Any, inputs: Any) -> None:
        if inputs[0].shape[:2].numel() > tokens:
            raise error

    model.model.layers[0].register_forward_pre_hook(fail)


@pytest.mark.parametrize("error", ERRORS, ids=["accelerator", "CPU"])
def test_prompts_and_new_tokens_are_named(error: Exception, model: Any, tokenizer: Any) -> None:
    shorten(model, error, 0)
    with pytest.raises(RunError) as raised:
        generate(model, tokenizer, PROMPTS, 5, batch_size=4)
    # BOS and six bytes, five new ones
    assert "with 4 prompts of 12 tokens at once" in str(raised.value)
    assert "Tried to allocate 2.00 GiB" in str(raised.value)
    assert "a batch size of 2 (evaluation.suite.batch_size" in str(raised.value)
    assert "verbmem_new_tokens" in str(raised.value)
    assert "More." not in str(raised.value)


@pytest.mark.parametrize("error", ERRORS, ids=["accelerator", "CPU"])
def test_a_batch_chosen_by_free_memory_is_halved_down_to_one_prompt_first(
    error: Exception, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(model: Any, rows: Any, *_: Any) -> None:
        tried.append(len(rows))
        raise error

    monkeypatch.setattr(decoding, "continuations", fail)
    with pytest.raises(RunError) as raised:
        generate(model, tokenizer, PROMPTS, 5)
    assert tried == [4, 2, 1]
    assert "1 prompts" in str(raised.value)
    assert "batch size" not in str(raised.value), "there is no smaller one"


def test_windows_are_named_with_the_option_that_cuts_them(model: Any) -> None:
    shorten(model, ERRORS[0])
    with pytest.raises(
        RunError, match=r"5 windows of 30 tokens.*size of 2 .*fewer tokens than 30 \(data\.max_len"
    ):
        window_nlls(model, WINDOWS, batch_size=5)


def test_texts_are_named(model: Any, tokenizer: Any) -> None:
    shorten(model, ERRORS[0])
    with pytest.raises(RunError, match=r"3 texts of 31 tokens"):
        token_log_likelihoods(model, tokenizer, ["x" * 30, *PROMPTS], batch_size=3)


def test_other_errors_pass_unchanged(model: Any) -> None:
    shorten(model, RuntimeError("shape"))
    with pytest.raises(RuntimeError, match=r"^shape$"):
        window_nlls(model, WINDOWS)


@pytest.mark.parametrize("error", ERRORS, ids=["accelerator", "CPU"])
def test_likelihoods_go_on_with_smaller_batches_where_they_chose_them(
    error: Exception, model: Any, tokenizer: Any
) -> None:
    expected = window_nlls(model, WINDOWS), token_log_likelihoods(model, tokenizer, PROMPTS)
    shorten(model, error, 60)  # two windows
    assert torch.allclose(window_nlls(model, WINDOWS), expected[0], rtol=1e-5)
    shorten(model, error, 8)
    done: list[int] = []
    found = token_log_likelihoods(model, tokenizer, PROMPTS, progress=lambda now, _: done.append(now))
    assert done[-1] == 4
    assert len(done) > 2
    for one, other in zip(found, expected[1], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
