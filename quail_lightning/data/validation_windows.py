"""Windows to choose a model by: those that hold nothing of a reported prompt (docs/decisions.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import without_padding

WORDS = 8  # a run of so many words in common is no accident


def validation_windows(
    forget: Tensor, retain: Tensor, records: EvaluationRecords, tokenizer: Any
) -> dict[str, Tensor]:
    """The windows of both sets that share no eight words in a row with a reported prompt or its truth.

    Args:
        forget: [n, time] token windows.
        retain: [m, time] token windows.
        records: what is reported: its verbatim prompts.
        tokenizer: that cut the windows.

    Returns:
        ``forget`` and ``retain`` → [fewer, time], in the same order; none of a set that has none.

    Raises:
        InputError: every window of a set holds some of them.
    """
    prompts = [f"{record.prompt} {record.truth}" for record in records.verbatim or ()]
    reported = _runs(prompts)
    found = {}
    for name, windows in (("forget", forget), ("retain", retain)):
        texts = (
            tokenizer.decode(without_padding(window).tolist(), skip_special_tokens=True) for window in windows
        )
        free = [number for number, text in enumerate(texts) if reported.isdisjoint(_runs([text]))]
        if not free and len(windows):
            raise InputError(
                f"every {name} window holds a part of a reported prompt: there is nothing to choose a model by",
                given=f"{len(windows)} windows and {len(prompts)} prompts",
                remedy="Hold some back (data.validation_windows, where records are cut from windows), use more or "
                "shorter windows, or set best.enabled to false",
            )
        found[name] = windows[free]
    return found


def _runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Every run of ``WORDS`` words in the texts."""
    runs: set[tuple[str, ...]] = set()
    for text in texts:
        words = text.lower().split()
        runs.update(tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
    return runs
