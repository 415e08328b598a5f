"""Text → token windows (the benchmark's own cut)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quail_lightning.errors import InputError


def token_windows(texts: Sequence[str], tokenizer: Any, max_len: int) -> Tensor:
    """Cut a corpus into windows of ``max_len`` tokens.

    The documents are joined by a blank line, tokenized without special tokens and cut into runs of
    ``max_len − 1`` tokens; BOS goes before each. The last, short run is filled from the corpus' start.

    Args:
        texts: documents.
        tokenizer: a transformers tokenizer with a BOS token.
        max_len: tokens a window, BOS included.

    Returns:
        [windows, max_len] int64.

    Raises:
        InputError: no text at all, a window too short to hold a prediction, or a tokenizer without BOS.
    """
    if max_len < 2:
        raise InputError("max_len must be at least 2 tokens (BOS and one to predict)", given=max_len)
    if tokenizer.bos_token_id is None:
        raise InputError("the tokenizer has no BOS token, which opens every window", given=tokenizer.name_or_path)
    # verbose=False: the warning about texts longer than the model does not apply, they are cut right below
    encoded = tokenizer("\n\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if not encoded:
        raise InputError("the texts hold no token, so there is no window to cut", given=list(texts)[:3])
    tokens = torch.tensor(encoded, dtype=torch.int64)
    run = max_len - 1
    count = -(-len(tokens) // run)
    missing = count * run - len(tokens)
    if missing:
        filling = tokens.repeat(-(-missing // len(tokens)))[:missing]
        tokens = torch.cat([tokens, filling])
    bos = torch.full((count, 1), tokenizer.bos_token_id, dtype=torch.int64)
    return torch.cat([bos, tokens.view(count, run)], dim=1)
