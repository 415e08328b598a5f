"""Text → token windows (the benchmark's own cut)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.tokens import token_ids
from quail_lightning.errors import InputError
from quail_lightning.run.processes import current_processes
from quail_lightning.terminal import Bar


def token_windows(texts: Sequence[str], tokenizer: Any, max_len: int) -> Tensor:
    """Cut a corpus into windows of ``max_len`` tokens.

    The documents are joined by a blank line, tokenized without special tokens and cut into runs of
    ``max_len − 1`` tokens; BOS goes before each. A tokenizer without BOS leaves its place to the text, see
    ``opening_tokens``. The last, short run is filled from the corpus' start.

    Args:
        texts: documents.
        tokenizer: a transformers tokenizer.
        max_len: tokens a window, BOS included.

    Returns:
        [windows, max_len] int64.

    Raises:
        InputError: no text at all, or a window too short to hold a prediction.
    """
    opening = _opening(tokenizer, max_len)
    run = max_len - len(opening)
    tokens = token_ids("\n\n".join(texts), tokenizer)
    if not len(tokens):
        raise InputError(
            "the texts hold no token, so there is no window to cut",
            given=f"{len(texts)} texts of {sum(map(len, texts))} characters",
        )
    count = -(-len(tokens) // run)
    missing = count * run - len(tokens)
    if missing:
        filling = tokens.repeat(-(-missing // len(tokens)))[:missing]
        tokens = torch.cat([tokens, filling])
    openings = torch.tensor(opening, dtype=torch.int64).expand(count, len(opening))
    return torch.cat([openings, tokens.view(count, run)], dim=1)


def document_windows(texts: Sequence[str], tokenizer: Any, max_len: int) -> Tensor:
    """One window a document: its opening and its first tokens, without special tokens.

    Args:
        texts: documents, at least one.
        tokenizer: a transformers tokenizer.
        max_len: tokens a window, opening included.

    Returns:
        [documents, longest] int64, shorter ones padded on the right as ``padded`` does.

    Raises:
        InputError: a document too short to hold a prediction, or a window.
    """
    opening = torch.tensor(_opening(tokenizer, max_len), dtype=torch.int64)
    rows = []
    with Bar(total=len(texts), desc="windows", unit="text", disable=current_processes().rank != 0) as bar:
        for number, text in enumerate(texts):
            rows.append(torch.cat([opening, token_ids(text, tokenizer)])[:max_len])
            if len(rows[-1]) < 2:
                raise InputError(
                    f"document {number} of {len(texts)} has no token to predict",
                    given=f"{len(text)} characters",
                    remedy="Leave it out",
                )
            bar.update()
    return padded(rows, tokenizer)


def padded(rows: Sequence[Tensor], tokenizer: Any) -> Tensor:
    """Rows of any length [time] as windows [rows, longest], padded on the right by tokens that are only read.

    Any token serves: it is masked, and no real position of a causal model looks at it.
    """
    padding = tokenizer.pad_token_id
    padding = int(padding if padding is not None else tokenizer.eos_token_id or 0)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=~padding)


def _opening(tokenizer: Any, max_len: int) -> list[int]:
    if max_len < 2:
        raise InputError("max_len must be at least 2 tokens (BOS and one to predict)", given=max_len)
    opening = opening_tokens(tokenizer)
    if len(opening) >= max_len:
        raise InputError(f"a window opens with {len(opening)} tokens, which leaves none to predict", given=max_len)
    return opening


def without_repeats(window: Tensor, longest: int) -> Tensor:
    """The beginning of a run of tokens, up to where it only repeats itself.

    A corpus shorter than a window fills it with itself, and what is repeated can be copied from the run alone.

    Worked: a b c a b → a b c; a b c d → a b c d.

    Args:
        window: [time], without its opening.
        longest: tokens that what is repeated may have.

    Returns:
        [time or fewer].
    """
    length = len(window)
    periods = (
        period
        for period in range(1, min(longest + 1, length))
        if torch.equal(window[period:], window[: length - period])
    )
    return window[: next(periods, length)]
