from __future__ import annotations

from typing import Any

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.evaluation.generation import generate

PROMPTS = [
    "A",
    "The quick brown fox jumps over the lazy dog, and then",
    "Question: who?\nAnswer: ",
    "été " * 9,
    "Zz",
]


def greedy_by_hand(model: Any, ids: list[int], steps: int) -> list[int]:
    """One prompt, no padding, no cache, the whole sequence again for each token."""
    new: list[int] = []
    with torch.no_grad():
        for _ in range(steps):
            token = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
            if token == 1:
                break
            new.append(token)
    return new


def test_a_batch_gives_the_text_of_one_prompt_at_a_time(model: Any, tokenizer: Any) -> None:
    batched = generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=3)
    model.eval()
    for prompt, text in zip(PROMPTS, batched, strict=True):
        ids = [0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        expected = tokenizer.decode(greedy_by_hand(model, ids, 24), skip_special_tokens=True)
        assert text == expected
    assert len(set(batched)) == len(PROMPTS), "a degenerate model would pass any order"


def test_rows_stop_at_their_own_eos(model: Any, tokenizer: Any) -> None:
    full = greedy_by_hand(model.eval(), [0, *tokenizer(PROMPTS[1])["input_ids"]], 12)
    model.generation_config.eos_token_id = [full[4], 1]
    texts = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5)
    assert texts[1] == tokenizer.decode(full[: full.index(full[4])])
    assert any(len(text) > len(texts[1]) for text in texts)


def test_a_checkpoint_that_asks_for_sampling_is_still_read_greedily(model: Any, tokenizer: Any) -> None:
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=2)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=1.7, num_beams=3)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=2) == plain


def test_modes_random_state_and_tokenizer_are_left_alone(model: Any, tokenizer: Any) -> None:
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    done: list[tuple[int, int]] = []
    generate(model, tokenizer, PROMPTS, 4, batch_size=2, progress=lambda *counts: done.append(counts))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tokenizer.pad_token is None
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_prompts_beyond_the_positions_are_refused_before_generating(model: Any, tokenizer: Any) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("generated")

    model.forward = never
    with pytest.raises(InputError, match=r"1 of 2 prompts .* 201 tokens, .* 60 new ones 261, .* 256 positions"):
        generate(model, tokenizer, ["short", "x" * 200], max_new_tokens=60, batch_size=2)


def test_the_last_fitting_length_is_accepted(model: Any, tokenizer: Any) -> None:
    assert len(generate(model, tokenizer, ["x" * 251], max_new_tokens=4, batch_size=1)) == 1


def test_no_prompts_give_no_completions(model: Any, tokenizer: Any) -> None:
    assert generate(model, tokenizer, [], max_new_tokens=4, batch_size=1) == []
