from __future__ import annotations

from typing import Any

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.inference.generation import generate
from quail_lightning.inference.sampling import Sampling

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


SHOTS = "Question: one?\nAnswer: two\n\nQuestion: three?\nAnswer: four\n\n"
ASKED = [f"{SHOTS}Question: {word}?\nAnswer: " for word in ("a", "longer one", "été", "zz top")]


def seen_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Token count of every forward pass from here on."""
    counts: list[int] = []
    forward = model.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", counted)
    return counts


def expected_texts(model: Any, tokenizer: Any, prompts: list[str], steps: int) -> list[str]:
    model.eval()
    rows = [[0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]] for prompt in prompts]
    return [tokenizer.decode(greedy_by_hand(model, ids, steps), skip_special_tokens=True) for ids in rows]


def test_a_shared_prefix_is_read_once_and_changes_no_text(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_texts(model, tokenizer, ASKED, 12)
    counts = seen_tokens(model, monkeypatch)
    assert generate(model, tokenizer, ASKED, 12, batch_size=3) == expected
    prefix = 1 + len(f"{SHOTS}Question: ")
    assert counts[0] == prefix
    suffixes = [len(prompt.encode()) + 1 - prefix for prompt in ASKED]
    assert sum(counts) <= prefix + 3 * max(suffixes) + min(suffixes) + 4 * 11
    assert len(set(expected)) > 1


def test_identical_prompts_keep_a_token_of_their_own(model: Any, tokenizer: Any) -> None:
    expected = expected_texts(model, tokenizer, ASKED[:1], 6)
    assert generate(model, tokenizer, ASKED[:1] * 3, 6, batch_size=2) == expected * 3


def test_models_with_another_kind_of_cache_go_row_by_row_to_the_same_text(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = generate(model, tokenizer, PROMPTS, 10, batch_size=5)
    monkeypatch.setattr("quail_lightning.inference.preallocated_cache.plain_layers", lambda model: 0)
    assert generate(model, tokenizer, PROMPTS, 10, batch_size=5) == batched


def test_a_sliding_window_is_not_taken_for_a_plain_cache() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    from quail_lightning.inference.preallocated_cache import plain_layers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=258, num_key_value_heads=1, sliding_window=8, **sizes)
    assert plain_layers(MistralForCausalLM(config)) == 0


@pytest.mark.parametrize("worth_keeping", [0.0, 0.75, 1.01])
def test_dropping_finished_rows_or_keeping_them_gives_the_same(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, worth_keeping: float
) -> None:
    full = [greedy_by_hand(model.eval(), [0, *tokenizer(p)["input_ids"]], 14) for p in PROMPTS]
    ends = {full[1][3], full[3][6]}
    monkeypatch.setattr("quail_lightning.inference.decoding.WORTH_KEEPING", worth_keeping)
    model.generation_config.eos_token_id = [*ends, 1]
    texts = generate(model, tokenizer, PROMPTS, 14, batch_size=5)
    for tokens, text in zip(full, texts, strict=True):
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        assert text == tokenizer.decode(tokens[:end], skip_special_tokens=True)


def test_a_stop_ends_the_completion_after_it_without_changing_what_stands_before(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(model, tokenizer, PROMPTS, 40, batch_size=5)
    stop = whole[2][5:7]
    assert stop.strip()
    counts = seen_tokens(model, monkeypatch)
    stopped = generate(model, tokenizer, PROMPTS[2:3], 40, batch_size=5, stops=(stop,))
    assert stopped[0].split(stop)[0] == whole[2].split(stop)[0]
    assert len(stopped[0]) < len(whole[2])
    assert len(counts) < 40
    together = generate(model, tokenizer, PROMPTS, 40, batch_size=5, stops=(stop,))
    assert [text.split(stop)[0] for text in together] == [text.split(stop)[0] for text in whole]


def test_sampling_repeats_whatever_the_batches_and_is_not_greedy(model: Any, tokenizer: Any) -> None:
    state = torch.random.get_rng_state()
    hot = Sampling(temperature=3.0)
    one = generate(model, tokenizer, PROMPTS, 10, batch_size=1, sampling=hot)
    assert generate(model, tokenizer, PROMPTS, 10, batch_size=4, sampling=hot) == one
    assert one != generate(model, tokenizer, PROMPTS, 10, batch_size=4)
    assert one != generate(model, tokenizer, PROMPTS, 10, batch_size=4, sampling=Sampling(3.0, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_are_halved_where_memory_runs_out(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quail_lightning.inference import decoding

    expected = generate(model, tokenizer, PROMPTS, 6)
    sizes: list[int] = []

    def scarce(model: Any, rows: Any, *others: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return real(model, rows, *others)

    real = decoding.continuations
    monkeypatch.setattr(decoding, "continuations", scarce)
    assert generate(model, tokenizer, PROMPTS, 6) == expected
    assert sizes == [5, 2, 2, 1]
