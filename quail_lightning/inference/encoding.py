"""Text to token numbers, the same way for every metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quail_lightning.data.opening import opening_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token numbers of each text, with its opening before it and nothing after it.

    For Llama's tokenizer this is ``add_special_tokens=True``, as MUSE does. BOS is put there by hand because
    other tokenizers leave it out or add EOS as well, and the training windows open with BOS. A tokenizer that
    has no BOS mostly adds nothing: see ``opening_tokens``.
    """
    if not texts:
        return []
    prefix = opening_tokens(tokenizer)
    # verbose=False: whether a text fits is evaluated here against the model, not against the tokenizer's own limit
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [prefix + list(ids) for ids in encoded]


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of token numbers without the special tokens, spaces before punctuation cleaned up as MUSE does."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=True)
    assert isinstance(text, str)
    return text


def positions(config: PreTrainedConfig) -> int | None:
    """How many tokens the model can hold at once; None where its architecture sets no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)
