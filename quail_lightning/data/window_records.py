"""Evaluation records cut from token windows, for models too small for the benchmark's own prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, VerbatimPrompt
from quail_lightning.data.windows import without_repeats
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import without_padding

TRUTH_TOKENS = 127  # the published truth is 128 tokens long with its BOS
MOST_RECORDS = 100  # as many as the benchmark has in each split
FEWEST_TOKENS = 4  # of a text that is continued: two for the prompt, two for its truth


def records_from_windows(
    forget: Tensor, retain: Tensor, holdout: Tensor | None, tokenizer: Any, held_back: int = 0
) -> EvaluationRecords:
    """Verbatim prompts and membership texts out of windows; no questions.

    The first half of a forget window is the prompt, what follows is the truth (at most 127 tokens). A text that
    is shorter than one window has filled it with repeats of itself, and one that stands several times in the file
    likewise: they are left out first, and a prompt is at most half of what remains. A prompt that holds its own
    truth all the same is left out; the note says how many. The membership texts are whole windows. At most 100 of
    each, evenly spread over the windows given.

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
    repeated = len(forget) == 1  # of several windows the last alone is filled, with what is not in it
    forget = forget[reported_windows(len(forget), held_back)]
    first = len(opening_tokens(tokenizer))

    def members(windows: Tensor) -> tuple[str, ...]:
        rows = (without_padding(window)[first:].tolist() for window in spread(windows, MOST_RECORDS))
        return tuple(tokenizer.decode(row, skip_special_tokens=True) for row in rows)

    full = forget.shape[1] - first
    # by accident a full window may end as it begins; it does not repeat half of itself by accident
    longest = full if repeated else full // 2
    runs = [without_repeats(without_padding(window)[first:], longest) for window in spread(forget, MOST_RECORDS)]
    prompts = [
        prompt_of(run, min(forget.shape[1] // 2 - first, len(run) // 2), tokenizer)
        for run in runs
        if len(run) >= min(FEWEST_TOKENS, full)
    ]
    kept = tuple(record for record in prompts if not _holds_its_truth(record))
    what = "Verbatim prompts" if holdout is None else "Verbatim prompts and membership texts"
    return EvaluationRecords(
        verbatim=kept or None,
        membership=(
            None if holdout is None else MembershipTexts(members(forget), members(retain), members(holdout))
        ),
        note=" ".join(
            [
                f"{what} are cut from windows of {forget.shape[1]} tokens.",
                *_remarks(sum(len(run) < full for run in runs), len(runs), len(kept)),
            ]
        ),
    )


def reported_windows(count: int, held_back: int) -> list[int]:
    """Numbers of the forget windows that are left where so many of ``count`` are held back, evenly spread."""
    back = {(2 * number + 1) * count // (2 * held_back) for number in range(held_back)}
    return [number for number in range(count) if number not in back]


def prompt_of(run: Tensor, half: int, tokenizer: Any) -> VerbatimPrompt:
    """The first ``half`` tokens of a window as a prompt, and what follows.

    Args:
        run: [time], without the window's opening.
        half: tokens of the prompt.
        tokenizer: the one that cut the window.
    """
    parts = (run[:half], run[half : half + TRUTH_TOKENS])
    return VerbatimPrompt(*(tokenizer.decode(part.tolist(), skip_special_tokens=True) for part in parts))


def _holds_its_truth(record: VerbatimPrompt) -> bool:
    prompt, truth = (" ".join(text.split()) for text in (record.prompt, record.truth))
    return truth in prompt


def _remarks(repeating: int, asked: int, kept: int) -> list[str]:
    """What M1 lacks, and why."""
    remarks = []
    if repeating:
        remarks.append(
            f"In {repeating} of {asked} windows the forget text only repeats itself: it is asked for once."
        )
    if not kept:
        remarks.append(
            "Verbatim recall is left out: the forget text is too short, or a prompt holds already what follows it."
        )
    elif kept < asked:
        remarks.append(f"{asked - kept} prompts that hold what follows them, or too little, are left out.")
    return remarks


def spread(windows: Tensor, most: int) -> Tensor:
    """At most ``most`` rows, evenly spread over all of them."""
    if len(windows) <= most:
        return windows
    return windows[[number * len(windows) // most for number in range(most)]]
