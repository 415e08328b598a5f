"""Long texts are tokenized in pieces, once."""

import random

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from quail_lightning.data import tokens
from quail_lightning.data.tokens import token_ids
from quail_lightning.terminal import Bar


def text(seed):
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdeßé漢字", k=draw.randint(1, 9))) for _ in range(300)]
    between = [" "] * 9 + ["\n\n", "  ", "\t", ", ", "-", " 12 "]
    return "".join(draw.choice(words) + draw.choice(between) for _ in range(9000))


def gpt2():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)


def llama2():
    """A prefix before the text, and merges over the whole of it."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)


def t5():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    return made, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )


def trained(kind):
    made, trainer = kind()
    made.train_from_iterator([text(0)[start : start + 200] for start in range(0, 20_000, 200)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(tokens, "PIECE", 3000)
    monkeypatch.setattr(tokens, "SHARED", 600)
    monkeypatch.setattr(tokens, "_known", {})


@pytest.mark.parametrize("kind", [gpt2, llama2, t5])
@pytest.mark.parametrize("content", [text(1), "ab" * 9000, "漢" * 9001, " " * 9000 + "a", "a" * 9000])
def test_the_pieces_joined_are_the_tokens_of_the_whole(kind, content):
    tokenizer = trained(kind)
    whole = tokenizer(content, add_special_tokens=False)["input_ids"]
    assert token_ids(content, tokenizer).tolist() == whole


class Counting:
    """A tokenizer that counts what it is given."""

    is_fast = True

    def __init__(self, tokenizer):
        self.tokenizer, self.backend_tokenizer, self.given = tokenizer, tokenizer.backend_tokenizer, []

    def __call__(self, content, **options):
        self.given.append(len(content))
        return self.tokenizer(content, **options)


def test_a_long_text_is_tokenized_once_in_pieces_and_a_bar_shows_it(monkeypatch):
    shown = []
    monkeypatch.setattr(tokens, "Bar", lambda **options: shown.append(options) or Bar(**options))
    counting, content = Counting(trained(gpt2)), text(2)
    first = token_ids(content, counting)
    assert max(counting.given) <= 3600
    assert len(content) <= sum(counting.given) <= 1.3 * len(content)
    assert [(bar["desc"], bar["total"]) for bar in shown] == [("tokens", len(content))]
    calls = len(counting.given)
    assert torch.equal(token_ids(content, Counting(trained(gpt2))), first)  # loaded again, the same tokenizer
    assert torch.equal(token_ids(content, counting), first)
    assert len(counting.given) == calls


def test_another_tokenizer_or_text_is_tokenized_anew():
    content = text(3)
    token_ids(content, trained(gpt2))
    for other, tokenizer in ((content, trained(t5)), (content + "x", trained(gpt2))):
        assert token_ids(other, tokenizer).tolist() == tokenizer(other, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_weighs_the_whole_text_is_given_the_whole():
    tokenizer = trained(t5)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    counting = Counting(tokenizer)
    token_ids(text(5), counting)
    assert counting.given == [len(text(5))]


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_given_the_whole():
    counting = Counting(trained(gpt2))
    counting.is_fast = False
    token_ids(text(4), counting)
    assert counting.given == [len(text(4))]
