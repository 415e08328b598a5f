"""A tokenizer and a Llama that two CPU cores train in a minute, for the quickstart and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Their order is their token id, in the tokenizer and in the model's configuration.
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD)

# A space belongs to the word before it, and no piece goes on after white space. So a text that ends in white space
# (the prompt "Answer: ") has the same tokens whether or not its continuation is joined to it. Digits stand alone.
PIECE = r"\p{L}+ ?|\p{N} ?|[^\s\p{L}\p{N}]+ ?|\s"

# bitsandbytes quantizes blocks of 64 weights: a row that is a multiple of it holds whole blocks.
BLOCK = 64


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; every text comes back exactly from its tokens.

    The same texts in the same order give the same tokenizer. BOS is put in front where special tokens are added,
    as Llama's tokenizer does; EOS never is. Padding is on the left, for batched generation.

    Args:
        texts: what the merges are learned from.
        vocab_size: tokens, with the 256 bytes and the three special tokens among them; texts with few distinct
            pieces can give fewer.

    Returns:
        A tokenizer with ids 0, 1 and 2 for BOS, EOS and padding.

    Raises:
        InputError: the vocabulary has no room for the bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise InputError(
            "vocab_size is too small for a byte-level tokenizer", given=vocab_size, allowed=f"{smallest} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(
    *,
    vocab_size: int,
    width: int = 256,
    layers: int = 2,
    heads: int = 4,
    positions: int = 512,
    seed: int = 42,
    mlp_width: int | None = None,
) -> LlamaForCausalLM:
    """Build a randomly initialized Llama in float32 on the CPU, in training mode.

    The same arguments give the same weights, and no random state outside is changed. The head is tied to the
    embedding: neither is quantized, so the quantized share of a small model stays larger.

    Args:
        vocab_size: tokens, ``len(tokenizer)``.
        width: width of the residual stream, a multiple of 64 and of ``2 · heads``.
        layers: decoder layers.
        heads: attention heads.
        positions: the longest sequence, tokens.
        seed: of the initial weights.
        mlp_width: width inside the MLP, a multiple of 64; None: 8/3 of ``width``, rounded up to one.

    Returns:
        The model; its configuration names the tokenizer's BOS, EOS and padding ids.

    Raises:
        InputError: a size that is not positive, or not the multiple it has to be.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    inner = -(-8 * width // (3 * BLOCK)) * BLOCK if mlp_width is None else mlp_width
    sizes = {"vocab_size": vocab_size, "width": width, "layers": layers, "heads": heads, "positions": positions}
    for name, size in {**sizes, "mlp_width": inner}.items():
        if size < 1:
            raise InputError(f"{name} must be positive", given=size)
    for name, size in (("width", width), ("mlp_width", inner)):
        if size % BLOCK:
            raise InputError(
                f"{name} must be a multiple of {BLOCK}, the block size of 4-bit quantization", given=size
            )
    if width % (2 * heads):
        raise InputError("width must be a multiple of 2 · heads (rotary positions)", given=f"{width} and {heads}")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(EOS),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        dtype="float32",
    )
    # torch.manual_seed would also reseed the accelerators, which fork_rng with no device does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.float().train()
