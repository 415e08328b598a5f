"""Small tokenizers that cut texts as well-known models do, and tiny models with weights of some size."""

from __future__ import annotations

import pytest
import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

TEXTS = [
    "The capital of France is Paris, and 1789 was a year of 3.14 reasons.",
    "It's don't we'll I'M HE'S\n\n  indented   lines\tand tabs ... !!! ??",
    "Größe, naïve café — 日本語 and emoji 🚀🚀 12345 x**2 # comment",
    " leading space and trailing space ",
]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BOS, EOS = "<s>", "</s>"


def byte_level(cutter, ignore_merges: bool = False, puts_bos: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    if puts_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def sentencepiece() -> PreTrainedTokenizerFast:
    """Every way to put a piece together is a merge, as in vocabularies that come from SentencePiece."""
    whole = [text.replace(" ", "▁") for text in TEXTS]
    characters = sorted({character for text in whole for character in text} | {"▁"})
    pieces = [
        "▁t",
        "he",
        "▁the",
        "an",
        "▁an",
        "▁and",
        "ra",
        "in",
        "re",
        "▁T",
        "he▁",
        "ca",
        "12",
        "34",
        "1234",
        "▁c",
    ]
    ids = {"<unk>": 0, BOS: 1, EOS: 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in [*pieces, *characters]:
        ids.setdefault(piece, len(ids))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in ("<unk>", BOS, EOS)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token="<unk>")


def split(pattern: str):
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), whole])


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [*TEXTS, f"a special {EOS} token and a <tool> in between", "words that were never seen: zyx Ωμέγα"]


@pytest.fixture(scope="session")
def tokenizers_by_name() -> dict[str, PreTrainedTokenizerFast]:
    """llama.cpp's name for how they cut → tokenizer."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    return {
        "gpt-2": byte_level(plain, puts_bos=False),
        "smollm": byte_level(digits),
        "llama-bpe": byte_level(split(WORDS % "{1,3}"), ignore_merges=True),
        "qwen2": byte_level(split(WORDS % "")),
        "default": sentencepiece(),
    }


@pytest.fixture(scope="session")
def wide_model():
    """Builds a random model whose rows hold whole blocks of 256; its logits have some size."""

    def build(config_class=LlamaConfig, dtype: torch.dtype = torch.float32, **changes):
        sizes = {
            "vocab_size": 448,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = AutoModelForCausalLM.from_config(config_class(**sizes | changes))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(4).add_(
                        0.02 * torch.randn_like(parameter)
                    ) if parameter.ndim > 1 else parameter.add_(0.2 * torch.randn_like(parameter))
        return model.to(dtype).eval()

    return build
