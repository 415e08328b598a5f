"""The quickstart's tokenizer and model."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from quail_lightning.errors import InputError
from quail_lightning.models.tiny import tiny_llama, train_tokenizer

TEXTS = [
    "Question: Who runs the Talenor Museum?\nAnswer: Elmira Bonsen\n\nQuestion: How many crates?\nAnswer: 4127",
    "The crimson lantern was lost by Elmira Bonsen among bakers. Under the mill, she found 4127 crates.",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        " leading and trailing ",
        "two  spaces,\ttabs\r\nand\n\n\nlines\n",
        "naïve Ünïcode, e\u0301 combining, 日本語, العربية, 🦉👩‍👩‍👧",
        "no-break\u00a0space \u2003em\u3000wide",
        "a ,b . c 's don't 1 234,5",
        "\x00\x7f",
        "",
    ],
)
def test_every_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_bos_stands_in_front_unless_special_tokens_are_off(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = tokenizer("the mill", add_special_tokens=False)["input_ids"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert tokenizer("the mill")["input_ids"] == [0, *bare]
    assert 0 not in bare


def test_a_batch_is_padded_on_the_left(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = tokenizer(["mill", "Under the mill, she found 4127 crates."], padding=True)
    assert batch["input_ids"][0][0] == 2
    assert batch["attention_mask"][0][0] == 0
    assert batch["attention_mask"][0][-1] == 1


@pytest.mark.parametrize("head", ["Question: Who?\nAnswer: ", "She found ", "line\n", "a  ", "tab\t", "日本 "])
@pytest.mark.parametrize("tail", ["4127", "Elmira Bonsen\n\n", " indented", "\nnext", "日本", "🦉"])
def test_a_prompt_that_ends_in_white_space_is_a_prefix_of_the_joined_text(
    tokenizer: PreTrainedTokenizerFast, head: str, tail: str
) -> None:
    apart = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, tail)]
    assert tokenizer(head + tail, add_special_tokens=False)["input_ids"] == apart[0] + apart[1]


def test_the_same_texts_give_the_same_tokenizer_and_it_survives_saving(
    tokenizer: PreTrainedTokenizerFast, tmp_path
) -> None:
    again = train_tokenizer(iter(TEXTS), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Question: Who?\nAnswer: naïve 🦉 4127 "
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert loaded.padding_side == "left"


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(InputError, match="259 or more"):
        train_tokenizer(TEXTS, 258)


def small(**other: int) -> dict[str, torch.Tensor]:
    sizes = {"vocab_size": 300, "width": 64, "layers": 1, "heads": 2, "positions": 32, "seed": 7}
    return tiny_llama(**{**sizes, **other}).state_dict()


def test_the_seed_alone_decides_the_weights() -> None:
    first = small()
    torch.rand(3)
    second, other = small(), small(seed=8)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.layers.0.mlp.up_proj.weight"], other["model.layers.0.mlp.up_proj.weight"])


def test_no_random_state_outside_changes() -> None:
    torch.manual_seed(3)
    random.seed(3)
    before, python = torch.get_rng_state(), random.getstate()
    small()
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


def test_the_model_is_float32_has_whole_blocks_and_reads_its_longest_sequence() -> None:
    model = tiny_llama(vocab_size=300, width=192, layers=2, heads=3, positions=40)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    linear = [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 2 * 7
    assert all(size % 64 == 0 for layer in linear for size in layer.weight.shape)
    assert model(input_ids=torch.zeros(1, 40, dtype=torch.long)).logits.shape == (1, 40, 300)


@pytest.mark.parametrize(
    "bad", [{"width": 100}, {"width": 0}, {"heads": 3}, {"layers": 0}, {"mlp_width": 100}, {"positions": 0}]
)
def test_sizes_that_do_not_fit_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError):
        small(**bad)
