"""M1, verbatim memorization: does the model continue a forget text word by word?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quail_lightning.inference.encoding import decode, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEW_TOKENS = 128  # MUSE's length of the response, and of the truth with its BOS


def truncate_truths(tokenizer: PreTrainedTokenizerBase, truths: Sequence[str], tokens: int) -> list[str]:
    """The beginning of each truth that a response is scored against.

    MUSE tokenizes the truth with its BOS and keeps the first 128 tokens, so 127 real ones stand against a
    response of 128.

    Args:
        tokenizer: the model's.
        truths: the true continuations.
        tokens: tokens kept, BOS included; the response's length.
    """
    return [decode(tokenizer, row[:tokens]) for row in encode(tokenizer, truths)]


def truncate_response(response: str, stops: Sequence[str]) -> str:
    """The response up to the first of ``stops``; whole where the record has none, as MUSE's."""
    return response[: min((at for stop in stops if (at := response.find(stop)) >= 0), default=len(response))]
