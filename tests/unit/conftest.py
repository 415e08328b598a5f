"""A small corpus, models and tokenizers that the tests of several rooms share."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"
POSITIONS = 256

WORDS = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow", "yew")


def document(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A corpus in MUSE's layout: 6 forget documents, 8 retain documents, records of every kind."""
    folder = tmp_path_factory.mktemp("corpus")

    def write(part, rows):
        path = folder / f"{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))

    forget, retain = [document(n) for n in range(6)], [document(100 + n) for n in range(8)]
    write("raw/forget", forget)
    write("raw/retain1", retain)
    write("verbmem/forget", [{"prompt": text[:40], "gt": text[40:]} for text in forget[:3]])
    for name in ("forget", "retain"):
        write(f"knowmem/{name}_qa", [{"question": f"Which {word}?", "answer": word} for word in WORDS[:3]])
        write(f"knowmem/{name}_qa_icl", [{"question": f"What {word}?", "answer": word} for word in WORDS[:2]])
    write("privleak/forget", forget[:4])
    write("privleak/retain", retain[:4])
    write("privleak/holdout", [document(200 + n) for n in range(4)])
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, corpus_folder):
    """A tiny random Llama with a tokenizer of the corpus, saved in Hugging Face format."""
    from quail_lightning.models.checkpoint import save_model
    from quail_lightning.models.tiny import tiny_llama, train_tokenizer

    tokenizer = train_tokenizer(json.loads((corpus_folder / "raw/forget.json").read_text()), vocab_size=300)
    model = tiny_llama(vocab_size=len(tokenizer), width=64, layers=1, heads=2, positions=256, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # a random model's logits are nearly flat otherwise
    folder = tmp_path_factory.mktemp("models") / "target"
    save_model(model, tokenizer, folder, {"made_by": "tests"})
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without padding token: one token a byte; BOS is 0, EOS is 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, *alphabet])}
    core = Tokenizer(models.BPE(vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama in float32, in training mode, weights large enough that the best token leads clearly."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        attention_dropout=0.5,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return LlamaForCausalLM(config).float().train()
