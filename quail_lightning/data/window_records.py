"""Evaluation records cut from token windows, for models too small for the benchmark's own prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, VerbatimPrompt
from quail_lightning.errors import InputError

TRUTH_TOKENS = 127  # the published truth is 128 tokens long with its BOS
MOST_RECORDS = 100  # as many as the benchmark has in each split


def records_from_windows(
    forget: Tensor, retain: Tensor, holdout: Tensor | None, tokenizer: Any, held_back: int = 0
) -> EvaluationRecords:
    """Verbatim prompts and membership texts out of windows; no questions.

    The first half of a forget window is the prompt, what follows is the truth (at most 127 tokens). The
    membership texts are whole windows. At most 100 of each, evenly spread over the windows given.

    Args:
        forget: [windows, time] token windows of ``token_windows``.
        retain: likewise, of the retain set.
        holdout: likewise, of texts that no model was trained on; None leaves the membership attack out.
        tokenizer: the one that cut them.
        held_back: forget windows from which neither prompts nor membership texts are cut, evenly spread, so that
            a model can be chosen by them. Their NLLs are reported like all windows'.

    Raises:
        InputError: no forget window would be left.
    """
    if held_back >= len(forget):
        raise InputError(
            "data.validation_windows must leave forget windows to report on",
            given=held_back,
            allowed=f"0 … {len(forget) - 1}",
        )
    back = {(2 * number + 1) * len(forget) // (2 * held_back) for number in range(held_back)}
    forget = forget[[number for number in range(len(forget)) if number not in back]]
    half, first = forget.shape[1] // 2, len(opening_tokens(tokenizer))

    def decode(tokens: Tensor) -> str:
        return tokenizer.decode(tokens.tolist(), skip_special_tokens=True)

    def members(windows: Tensor) -> tuple[str, ...]:
        return tuple(decode(window[first:]) for window in spread(windows, MOST_RECORDS))

    note = (
        f"Verbatim prompts and membership texts are cut from windows of {forget.shape[1]} tokens, not the "
        "benchmark's own; M2 and M4 are left out."
    )
    if holdout is None:
        note = f"Verbatim prompts are cut from windows of {forget.shape[1]} tokens."
    return EvaluationRecords(
        verbatim=tuple(
            VerbatimPrompt(decode(window[first:half]), decode(window[half : half + TRUTH_TOKENS]))
            for window in spread(forget, MOST_RECORDS)
        ),
        membership=(
            None if holdout is None else MembershipTexts(members(forget), members(retain), members(holdout))
        ),
        note=note,
    )


def spread(windows: Tensor, most: int) -> Tensor:
    """At most ``most`` rows, evenly spread over all of them."""
    if len(windows) <= most:
        return windows
    return windows[[number * len(windows) // most for number in range(most)]]
